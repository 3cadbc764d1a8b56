// Package policy decides who may do what: Cedar policies, denied by default.
//
// A [Request] names a principal, one action of the closed table [Actions], one
// typed resource and that action's context. A [Set] is every stored policy,
// compiled; [Set.Decide] is a pure function of the set and the request, and says
// which policies decided. Three rules are built in and cannot be written away:
//
//   - A policy lives in a namespace and is only ever consulted for resources of
//     that namespace. Only policies of the namespace [System] are consulted for
//     every resource. A set is split by namespace, so a foreign policy is not
//     filtered out: it is never looked at.
//   - An evaluation error denies. Cedar itself skips a policy that errs, so that a
//     forbid with a missing attribute would fail open.
//   - A stored policy that does not compile denies everything until it is repaired;
//     it is never skipped.
//
// Policies are checked against the schema made from the action table when they are
// stored: an unknown action, entity type or attribute, a type mismatch, a malformed
// entity id and a statement that could never match are refused, with the line, the
// column and a hint.
//
// # Entities
//
//	Operator, Workload, Device, Node   "ns/name"  in Group and Namespace
//	Group                              "ns/name"
//	Namespace, Cluster, Audit          "ns"
//	Identity, Policy, Credential,
//	Key, Device, Token                 "ns/name"  in Namespace
//
// Device is both a principal and a resource. Every entity but Group has the
// attribute namespace, and those with a name the attribute name. Quantities and
// prices are whole numbers of hundred-millionths (0.5 is 50000000), because Cedar's
// own decimal keeps four digits only. An attribute of the context that the request
// does not carry is absent: a forbid over it must say what absence means
// (unless { context has qty && context.qty <= 50000000 }).
package policy
