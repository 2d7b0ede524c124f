{{/* All permissions of the controller in a namespace: it lists and watches four kinds, writes the status of one, and
creates Events. */}}
{{- define "switchyard.rules" -}}
- apiGroups: [switchyard.dev]
  resources: [websocketroutes]
  verbs: [list, watch]
- apiGroups: [switchyard.dev]
  resources: [websocketroutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# Routes reference certificates in their own namespace. Only Secrets of type kubernetes.io/tls are requested, but RBAC
# cannot distinguish types.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
# Events have generated names, so rules cannot restrict them by name.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
