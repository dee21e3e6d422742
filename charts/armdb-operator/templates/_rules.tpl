{{- /* What the operator may do where it looks after clusters. Every rule has its reason; whatever is watched needs list
       and watch, whatever is replaced whole needs create and update. */ -}}
{{- define "armdb.rules" -}}
# Clusters are read and watched; a request for a switchover is taken off when it is done (patch).
- apiGroups: [armdb.io]
  resources: [armdbclusters]
  verbs: [get, list, watch, patch]
# Their status is told.
- apiGroups: [armdb.io]
  resources: [armdbclusters/status]
  verbs: [update]
# Owner references that hold up deletion need this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [armdb.io]
  resources: [armdbclusters/finalizers]
  verbs: [update]
# Partitions are made and changed, and read from a quorum before the register is swapped. Never deleted: they go with
# their cluster.
- apiGroups: [armdb.io]
  resources: [armdbpartitions]
  verbs: [get, list, watch, create, update]
# The register: compared and swapped.
- apiGroups: [armdb.io]
  resources: [armdbpartitions/status]
  verbs: [update]
# The members' owners. Never deleted: they go with their cluster.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, update]
# Pod templates that were good, and the oldest of them given up.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, update]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, update]
# The identity of each cluster, by name: neither listed nor watched, and nobody else's is ever asked for.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update]
# Members are labelled by role (patch, metadata only: see the admission policy) and restarted (delete).
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Volumes are tied to their cluster (patch) or given up (delete) only where the spec asks for it.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# What happened is told, and counted when it happens again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
