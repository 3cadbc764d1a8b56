package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"

	"warder/api/codec"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

// BootstrapConfig is what a node without a cluster can do.
type BootstrapConfig struct {
	Init   func(context.Context, *warderv1.InitClusterRequest) (*warderv1.InitClusterResponse, error)
	Join   func(context.Context, *warderv1.SystemServiceJoinClusterRequest) (*warderv1.SystemServiceJoinClusterResponse, error)
	Status func(context.Context) (*warderv1.GetStatusResponse, error)
	Logger *slog.Logger
}

// NewBootstrap serves the local socket of a node that belongs to no cluster: who may connect to it is root or the
// daemon's own user, which the kernel tells. Every other method says that the node is not initialised.
func NewBootstrap(cfg BootstrapConfig) http.Handler {
	service := bootstrapService{cfg: cfg}
	mux := http.NewServeMux()
	checker, err := codec.NewChecker()
	if err != nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		})
	}
	options := append(codec.HandlerOptions(MaxMessage), connect.WithInterceptors(checker.Interceptor()))
	mux.Handle(warderv1connect.NewSystemServiceHandler(service, options...))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_ = connect.NewErrorWriter().Write(w, r, reason.New(warderv1.Reason_REASON_UNINITIALISED, "the node belongs to no cluster yet"))
	})
	return mux
}

type bootstrapService struct {
	warderv1connect.UnimplementedSystemServiceHandler
	cfg BootstrapConfig
}

func (s bootstrapService) InitCluster(ctx context.Context, request *warderv1.InitClusterRequest) (*warderv1.InitClusterResponse, error) {
	answer, err := s.cfg.Init(ctx, request)
	return answer, s.refuse("initialise a cluster", err)
}

func (s bootstrapService) JoinCluster(ctx context.Context, request *warderv1.SystemServiceJoinClusterRequest) (*warderv1.SystemServiceJoinClusterResponse, error) {
	answer, err := s.cfg.Join(ctx, request)
	return answer, s.refuse("join a cluster", err)
}

func (s bootstrapService) GetStatus(ctx context.Context, _ *warderv1.GetStatusRequest) (*warderv1.GetStatusResponse, error) {
	answer, err := s.cfg.Status(ctx)
	if answer != nil {
		return answer, nil // what is wrong with the HSM is part of the status
	}
	return nil, s.refuse("tell the node's status", err)
}

func (s bootstrapService) Unseal(context.Context, *warderv1.UnsealRequest) (*warderv1.UnsealResponse, error) {
	return nil, reason.New(warderv1.Reason_REASON_UNINITIALISED, "the node belongs to no cluster yet")
}

func (s bootstrapService) Seal(context.Context, *warderv1.SealRequest) (*warderv1.SealResponse, error) {
	return nil, reason.New(warderv1.Reason_REASON_UNINITIALISED, "the node belongs to no cluster yet")
}

// refuse tells the operator on the machine what went wrong in full: the caller is root or the daemon's own user.
func (s bootstrapService) refuse(what string, err error) error {
	if err == nil {
		return nil
	}
	incident := rand.Text()
	s.cfg.Logger.Warn("could not "+what, "incident", incident, "error", err)
	var remote *connect.Error
	if errors.As(err, &remote) {
		if told, ok := reason.Info(remote); ok {
			return reason.With(told, "could not "+what+": "+remote.Message())
		}
	}
	found, _ := lookup(err)
	return reason.With(&warderv1.ErrorInfo{Reason: found.reason, IncidentId: incident}, "could not "+what+": "+err.Error())
}
