package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) credentialSign() *cobra.Command {
	var headers []string
	var body string
	var curl bool
	cmd := &cobra.Command{
		Use:   "sign NAME METHOD URL",
		Short: "Have a broker request signed; the secret stays where it is",
		Example: `  warder credential sign binance-main POST \
      'https://api.binance.com/api/v3/order?symbol=LTCBTC&side=BUY&type=MARKET&quantity=1' --curl`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := a.brokerRequest(args[1], args[2], headers, body)
			if err != nil {
				return err
			}
			return a.tokenCall(args[0], "credential.sign", "credential", func(c *client.Client, namespace, name string) error {
				reply, err := c.Credentials.SignWithCredential(cmd.Context(), &warderv1.SignWithCredentialRequest{Namespace: namespace, Name: name, Request: request})
				if err != nil {
					return err
				}
				if curl {
					_, err := fmt.Fprintln(a.env.Stdout, curlCommand(reply.GetRequest()))
					return err
				}
				return a.show(reply, func(t *table) { signedRows(t, reply) })
			})
		},
	}
	cmd.Flags().StringArrayVar(&headers, "header", nil, "a header, as \"Name: value\"; may be repeated")
	cmd.Flags().StringVar(&body, "body", "", "the body: @file or - for stdin")
	cmd.Flags().BoolVar(&curl, "curl", false, "print a curl command that sends the signed request")
	return cmd
}

func (a *app) brokerRequest(method, url string, headers []string, body string) (*warderv1.HttpRequest, error) {
	number, err := parseEnum("method", method, "HTTP_METHOD_", warderv1.HttpMethod_value)
	if err != nil {
		return nil, err
	}
	request := &warderv1.HttpRequest{Method: warderv1.HttpMethod(number), Url: url}
	for _, header := range headers {
		name, value, found := strings.Cut(header, ":")
		if !found {
			return nil, localf("write it as \"Name: value\"", "header %q has no value", header)
		}
		request.Headers = append(request.Headers, &warderv1.HttpHeader{Name: name, Value: strings.TrimSpace(value)})
	}
	if body != "" {
		request.Body, err = a.read("--body", body)
	}
	return request, err
}

func methodName(m warderv1.HttpMethod) string {
	return strings.TrimPrefix(m.String(), "HTTP_METHOD_")
}

func signedRows(t *table, reply *warderv1.SignWithCredentialResponse) {
	request := reply.GetRequest()
	t.row("class", word(reply.GetEndpointClass(), "ENDPOINT_CLASS_"))
	t.row("version", reply.GetVersion())
	t.row("request", methodName(request.GetMethod())+" "+request.GetUrl())
	for _, header := range request.GetHeaders() {
		t.row("header", header.GetName()+": "+header.GetValue())
	}
	if len(request.GetBody()) > 0 {
		t.row("body", string(request.GetBody()))
	}
}

// curlCommand writes a request as a shell command.
func curlCommand(request *warderv1.HttpRequest) string {
	parts := []string{"curl", "--request", methodName(request.GetMethod())}
	for _, header := range request.GetHeaders() {
		parts = append(parts, "--header", quote(header.GetName()+": "+header.GetValue()))
	}
	if len(request.GetBody()) > 0 {
		parts = append(parts, "--data-raw", quote(string(request.GetBody())))
	}
	return strings.Join(append(parts, quote(request.GetUrl())), " ")
}

// quote makes one word of the shell (POSIX, section 2.2.2).
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
