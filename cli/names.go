package cli

import (
	"strings"

	warderv1 "warder/api/warder/v1"
)

// split reads "namespace/name", or "name" in the context's namespace. Whether a
// name is a good one is the server's to say.
func split(text, namespace string) (ns, name string) {
	if before, after, found := strings.Cut(text, "/"); found {
		return before, after
	}
	return namespace, text
}

// parsePrincipal reads "kind:namespace/name" or "kind:name".
func parsePrincipal(text, namespace string) (*warderv1.Principal, error) {
	kindText, rest, found := strings.Cut(text, ":")
	if !found || rest == "" {
		return nil, localf("write it as workload:namespace/name", "principal %q has no kind", text)
	}
	kind, err := parseEnum("kind of principal", kindText, "PRINCIPAL_KIND_", warderv1.PrincipalKind_value)
	if err != nil {
		return nil, err
	}
	ns, name := split(rest, namespace)
	return &warderv1.Principal{Kind: warderv1.PrincipalKind(kind), Namespace: ns, Name: name}, nil
}

// parseResource reads "type:namespace/name" or "type:name".
func parseResource(text, namespace string) (*warderv1.Resource, error) {
	kind, rest, found := strings.Cut(text, ":")
	if !found || kind == "" {
		return nil, localf("write it as credential:namespace/name", "resource %q has no type", text)
	}
	ns, name := split(rest, namespace)
	return &warderv1.Resource{Type: kind, Namespace: ns, Name: name}, nil
}

// parseGrants reads "action on resource" pairs: credential.sign=credential:ns/name.
// Several actions on one resource are joined by commas.
func parseGrants(texts []string, namespace string) ([]*warderv1.Grant, error) {
	var grants []*warderv1.Grant
	for _, text := range texts {
		actions, resourceName, found := strings.Cut(text, "=")
		if !found || actions == "" {
			return nil, localf("write it as credential.sign=credential:namespace/name", "grant %q has no resource", text)
		}
		resource, err := parseResource(resourceName, namespace)
		if err != nil {
			return nil, err
		}
		grants = append(grants, &warderv1.Grant{Actions: strings.Split(actions, ","), Resource: resource})
	}
	return grants, nil
}
