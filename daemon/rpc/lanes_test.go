package rpc

import (
	"net/http"
	"testing"

	"warder/api/warder/v1/warderv1connect"
	"warder/daemon/ratelimit"
)

// TestLanes: administration and whatever takes a right away never wait behind everyday work, nor what a node does alone
// behind what waits for others.
func TestLanes(t *testing.T) {
	table := methods()
	fresh := http.Header{ConsistencyHeader: {Linearizable}}
	for _, c := range []struct {
		procedure string
		header    http.Header
		want      ratelimit.Lane
	}{
		{warderv1connect.CredentialServiceRevealCredentialProcedure, nil, ratelimit.Local},
		{warderv1connect.CredentialServiceRevealCredentialProcedure, fresh, ratelimit.Cluster},
		{warderv1connect.CredentialServiceSignWithCredentialProcedure, nil, ratelimit.Local},
		{warderv1connect.TokenServiceIssueTokenProcedure, nil, ratelimit.Local},
		{warderv1connect.CredentialServicePutCredentialProcedure, nil, ratelimit.Cluster},
		{warderv1connect.DeviceServiceEnrolDeviceProcedure, nil, ratelimit.Cluster},
		{warderv1connect.KeyServiceSignWithKeyProcedure, nil, ratelimit.Hardware},
		{warderv1connect.TokenServiceRevokeTokenProcedure, nil, ratelimit.Reserved},
		{warderv1connect.IdentityServiceRevokeIdentityProcedure, fresh, ratelimit.Reserved},
		{warderv1connect.IdentityServiceDisableIdentityProcedure, nil, ratelimit.Reserved},
		{warderv1connect.PolicyServiceDeletePolicyProcedure, nil, ratelimit.Reserved},
		{warderv1connect.ClusterServiceRemoveMemberProcedure, nil, ratelimit.Reserved},
		{warderv1connect.CredentialServiceDeleteCredentialProcedure, nil, ratelimit.Reserved},
		{warderv1connect.KeyServiceDestroyKeyVersionProcedure, nil, ratelimit.Reserved},
		{warderv1connect.SystemServiceGetStatusProcedure, nil, ratelimit.Reserved},
	} {
		if got := laneOf(&Call{}, table[c.procedure], c.header); got != c.want {
			t.Errorf("%s %v goes in the %s lane; want %s", c.procedure, c.header, got, c.want)
		}
	}
	for procedure, row := range table {
		if got := laneOf(&Call{Socket: true}, row, nil); got != ratelimit.Reserved {
			t.Errorf("%s on the local socket goes in the %s lane", procedure, got)
		}
		if row.limit == ratelimit.Admin && laneOf(&Call{}, row, nil) != ratelimit.Reserved {
			t.Errorf("%s is administration, and has no reserved lane", procedure)
		}
	}
}
