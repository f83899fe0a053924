package tenants

// Permission is something an operator's token allows.
type Permission = string

// The permissions of the host side. A token holds some of them, or all with PermitAll; one that holds none allows nothing.
const (
	PermitAll Permission = "*"

	PermitTenantsRead    Permission = "tenants.read"
	PermitTenantsCreate  Permission = "tenants.create"
	PermitTenantsUpdate  Permission = "tenants.update"
	PermitTenantsSuspend Permission = "tenants.suspend"
	PermitFeaturesManage Permission = "features.manage"
	PermitTenantsDelete  Permission = "tenants.delete"
	PermitServersRead    Permission = "servers.read"
	PermitServersManage  Permission = "servers.manage"
	PermitOpsRead        Permission = "operations.read"
	PermitOpsRetry       Permission = "operations.retry"
	PermitOpsCancel      Permission = "operations.cancel"
	PermitSettingsRead   Permission = "settings.read"
	PermitSettingsManage Permission = "settings.manage"
	PermitTokensRead     Permission = "tokens.read"
	PermitTokensManage   Permission = "tokens.manage"
	PermitAuditRead      Permission = "audit.read.host"
	PermitImpersonate    Permission = "tenants.impersonate"
	// PermitPlacement is bringing tenants to other databases.
	PermitPlacement Permission = "tenants.placement.change"
	// PermitDataCross is reading, and writing where asked for, across the tenants of a database.
	PermitDataCross Permission = "tenants.data.cross"
)

// Permissions are all that a token can be given besides PermitAll: those above, and those of verbs to come.
var Permissions = []Permission{
	PermitTenantsRead, PermitTenantsCreate, PermitTenantsUpdate, PermitTenantsSuspend, PermitTenantsDelete, "tenants.migrate",
	PermitImpersonate, PermitPlacement, PermitDataCross,
	PermitServersRead, PermitServersManage, PermitOpsRead, PermitOpsRetry, PermitOpsCancel,
	PermitSettingsRead, PermitSettingsManage, PermitFeaturesManage, PermitTokensRead, PermitTokensManage, PermitAuditRead,
}
