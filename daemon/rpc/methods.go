package rpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
)

// caller says what stands for the caller of a method.
type caller uint8

const (
	// byCertificate: a client certificate of the cluster's own, and for what is marked a token bound to it.
	byCertificate caller = iota + 1
	// bySocket: the local unix socket, whose peer's user the kernel tells; no policy is asked, for a sealed node has none.
	bySocket
	// bySocketOrCertificate: either of the two.
	bySocketOrCertificate
	// byAdmission: a single-use token inside the request, made by an operator for one device or node.
	byAdmission
)

// target is what a request is about: the resource and the facts that policies see, and the object itself where
// looking at it was needed to know them. The handler gets this object, not another reading of the request.
type target struct {
	resource policy.Resource
	context  map[string]any
	object   any
}

// method is one row of the table of RPCs.
type method struct {
	action policy.Action
	caller caller
	limit  ratelimit.Class
	// token: a workload or a device must show a token whose scope covers the action.
	token bool
	// sealed: a sealed node answers too.
	sealed bool
	// resolve finds the target. It runs before authorisation and changes nothing.
	resolve func(ctx context.Context, s *Server, call *Call, message proto.Message) (target, error)
}

// methods is the table: every RPC of warder.v1 has one row.
func methods() map[string]method {
	const (
		read  = ratelimit.Read
		write = ratelimit.Write
		admin = ratelimit.Admin
	)
	return map[string]method{
		warderv1connect.SystemServiceInitClusterProcedure: {caller: bySocket, limit: admin, sealed: true, resolve: wholeCluster},
		warderv1connect.SystemServiceJoinClusterProcedure: {caller: bySocket, limit: admin, sealed: true, resolve: wholeCluster},
		warderv1connect.SystemServiceUnsealProcedure:      {caller: bySocket, limit: admin, sealed: true, resolve: wholeCluster},
		warderv1connect.SystemServiceSealProcedure:        {action: policy.SystemSeal, caller: bySocketOrCertificate, limit: admin, sealed: true, resolve: wholeCluster},
		warderv1connect.SystemServiceGetStatusProcedure:   {action: policy.SystemStatus, caller: bySocketOrCertificate, limit: read, sealed: true, resolve: wholeCluster},

		warderv1connect.ClusterServiceListMembersProcedure:     {action: policy.ClusterRead, caller: byCertificate, limit: read, resolve: wholeCluster},
		warderv1connect.ClusterServiceCreateJoinTokenProcedure: {action: policy.ClusterJoinToken, caller: byCertificate, limit: admin, resolve: wholeCluster},
		warderv1connect.ClusterServiceJoinClusterProcedure:     {caller: byAdmission, limit: ratelimit.Unauthenticated, resolve: wholeCluster},
		warderv1connect.ClusterServiceRemoveMemberProcedure:    {action: policy.ClusterRemove, caller: byCertificate, limit: admin, resolve: wholeCluster},
		warderv1connect.ClusterServiceStepDownProcedure:        {action: policy.ClusterStepDown, caller: byCertificate, limit: admin, resolve: wholeCluster},
		warderv1connect.ClusterServiceRotateRootProcedure:      {action: policy.ClusterRotateRoot, caller: byCertificate, limit: admin, resolve: wholeCluster},
		warderv1connect.ClusterServiceRotateDataProcedure:      {action: policy.ClusterRotateData, caller: byCertificate, limit: admin, resolve: wholeCluster},
		warderv1connect.ClusterServiceGetRotationProcedure:     {action: policy.ClusterRead, caller: byCertificate, limit: read, resolve: wholeCluster},

		warderv1connect.IdentityServiceCreateIdentityProcedure:    {action: policy.IdentityCreate, caller: byCertificate, limit: admin, resolve: identityWithKind},
		warderv1connect.IdentityServiceGetIdentityProcedure:       {action: policy.IdentityRead, caller: byCertificate, limit: read, resolve: identityOnly},
		warderv1connect.IdentityServiceListIdentitiesProcedure:    {action: policy.IdentityRead, caller: byCertificate, limit: read, resolve: namespace},
		warderv1connect.IdentityServiceSetIdentityGroupsProcedure: {action: policy.IdentityUpdate, caller: byCertificate, limit: admin, resolve: identityWithKind},
		warderv1connect.IdentityServiceIssueCertificateProcedure:  {action: policy.IdentityIssueCertificate, caller: byCertificate, limit: write, resolve: identityWithKind},
		warderv1connect.IdentityServiceDisableIdentityProcedure:   {action: policy.IdentityUpdate, caller: byCertificate, limit: admin, resolve: identityWithKind},
		warderv1connect.IdentityServiceEnableIdentityProcedure:    {action: policy.IdentityUpdate, caller: byCertificate, limit: admin, resolve: identityWithKind},
		warderv1connect.IdentityServiceRevokeIdentityProcedure:    {action: policy.IdentityRevoke, caller: byCertificate, limit: admin, resolve: identityWithKind},

		warderv1connect.PolicyServicePutPolicyProcedure:    {action: policy.PolicyWrite, caller: byCertificate, limit: admin, resolve: named(policy.Policy)},
		warderv1connect.PolicyServiceGetPolicyProcedure:    {action: policy.PolicyRead, caller: byCertificate, limit: read, resolve: named(policy.Policy)},
		warderv1connect.PolicyServiceListPoliciesProcedure: {action: policy.PolicyRead, caller: byCertificate, limit: read, resolve: namespace},
		warderv1connect.PolicyServiceDeletePolicyProcedure: {action: policy.PolicyWrite, caller: byCertificate, limit: admin, resolve: named(policy.Policy)},
		warderv1connect.PolicyServiceTestPolicyProcedure:   {action: policy.PolicyTest, caller: byCertificate, limit: read, resolve: testedNamespace},

		warderv1connect.CredentialServicePutCredentialProcedure:      {action: policy.CredentialWrite, caller: byCertificate, limit: write, resolve: named(policy.Credential)},
		warderv1connect.CredentialServiceListCredentialsProcedure:    {action: policy.CredentialRead, caller: byCertificate, limit: read, token: true, resolve: namespace},
		warderv1connect.CredentialServiceGetCredentialProcedure:      {action: policy.CredentialRead, caller: byCertificate, limit: read, token: true, resolve: named(policy.Credential)},
		warderv1connect.CredentialServiceRevealCredentialProcedure:   {action: policy.CredentialReveal, caller: byCertificate, limit: read, token: true, resolve: named(policy.Credential)},
		warderv1connect.CredentialServiceRotateCredentialProcedure:   {action: policy.CredentialRotate, caller: byCertificate, limit: write, resolve: named(policy.Credential)},
		warderv1connect.CredentialServiceSignWithCredentialProcedure: {action: policy.CredentialSign, caller: byCertificate, limit: read, token: true, resolve: brokerRequest},
		warderv1connect.CredentialServiceDeleteCredentialProcedure:   {action: policy.CredentialDelete, caller: byCertificate, limit: write, resolve: named(policy.Credential)},

		warderv1connect.KeyServiceCreateKeyProcedure:         {action: policy.KeyCreate, caller: byCertificate, limit: write, resolve: newKey},
		warderv1connect.KeyServiceListKeysProcedure:          {action: policy.KeyRead, caller: byCertificate, limit: read, token: true, resolve: namespace},
		warderv1connect.KeyServiceGetKeyProcedure:            {action: policy.KeyRead, caller: byCertificate, limit: read, token: true, resolve: named(policy.Key)},
		warderv1connect.KeyServiceRotateKeyProcedure:         {action: policy.KeyRotate, caller: byCertificate, limit: write, resolve: storedKey},
		warderv1connect.KeyServiceSignWithKeyProcedure:       {action: policy.KeySign, caller: byCertificate, limit: read, token: true, resolve: storedKey},
		warderv1connect.KeyServiceDestroyKeyVersionProcedure: {action: policy.KeyDestroy, caller: byCertificate, limit: write, resolve: named(policy.Key)},

		warderv1connect.DeviceServiceCreateEnrolmentTokenProcedure: {action: policy.DeviceEnrolmentToken, caller: byCertificate, limit: write, resolve: named(policy.Device)},
		warderv1connect.DeviceServiceEnrolDeviceProcedure:          {caller: byAdmission, limit: ratelimit.Unauthenticated, resolve: self(policy.Device)},
		warderv1connect.DeviceServiceRenewDeviceProcedure:          {action: policy.DeviceRenew, caller: byCertificate, limit: write, resolve: self(policy.Device)},

		warderv1connect.TokenServiceIssueTokenProcedure:   {action: policy.TokenIssue, caller: byCertificate, limit: read, resolve: newToken},
		warderv1connect.TokenServiceInspectTokenProcedure: {action: policy.TokenInspect, caller: byCertificate, limit: read, resolve: shownToken},
		warderv1connect.TokenServiceRevokeTokenProcedure:  {action: policy.TokenRevoke, caller: byCertificate, limit: write, resolve: self(policy.Token)},

		warderv1connect.AuditServiceTailAuditProcedure:          {action: policy.AuditRead, caller: byCertificate, limit: read, resolve: auditLog},
		warderv1connect.AuditServiceGetAuditCheckpointProcedure: {action: policy.AuditRead, caller: byCertificate, limit: read, resolve: auditLog},
		warderv1connect.AuditServiceListAuditEntriesProcedure:   {action: policy.AuditRead, caller: byCertificate, limit: read, resolve: auditLog},
		warderv1connect.AuditServiceListAuditAnchorsProcedure:   {action: policy.AuditRead, caller: byCertificate, limit: read, resolve: auditLog},
	}
}

// checkTotal says which RPCs of warder.v1 have no row, which rows are of no RPC, and which lack a part. Any of them
// refuses to start.
func checkTotal(table map[string]method) error {
	var wrong []string
	served := map[string]bool{}
	for _, file := range files() {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				procedure := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				served[procedure] = true
				if _, ok := table[procedure]; !ok {
					wrong = append(wrong, procedure+" has no row")
				}
			}
		}
	}
	for _, procedure := range slices.Sorted(maps.Keys(table)) {
		row := table[procedure]
		if !served[procedure] {
			wrong = append(wrong, procedure+" is no RPC")
		}
		if needsAction := row.caller != bySocket && row.caller != byAdmission; row.caller == 0 || row.resolve == nil || needsAction != (row.action != "") {
			wrong = append(wrong, procedure+" has an incomplete row")
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the table of RPCs: %s", strings.Join(wrong, "; "))
	}
	return nil
}

func files() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		warderv1.File_warder_v1_system_proto, warderv1.File_warder_v1_cluster_proto, warderv1.File_warder_v1_identity_proto,
		warderv1.File_warder_v1_policy_proto, warderv1.File_warder_v1_credential_proto, warderv1.File_warder_v1_key_proto,
		warderv1.File_warder_v1_device_proto, warderv1.File_warder_v1_token_proto, warderv1.File_warder_v1_audit_proto,
	}
}

// systemNamespace is where what belongs to the cluster as a whole lives.
func systemNamespace() identity.Name { return identity.MustName(policy.System) }
