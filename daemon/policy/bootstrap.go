package policy

// Bootstrap is the text of the first policy of a new cluster, stored in the
// namespace [System]: the operators of its group admins may do everything. An
// operator of another namespace's group admins is not one of them.
func Bootstrap() string {
	return `@id("admins-may-do-everything")
permit (
    principal is Operator in Group::"system/admins",
    action,
    resource
);

// A device renews its own certificate and no other.
@id("devices-renew-themselves")
permit (
    principal is Device,
    action == Action::"device.renew",
    resource is Device
) when { principal == resource };
`
}
