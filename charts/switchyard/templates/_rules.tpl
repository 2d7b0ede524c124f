{{/* All that the controller does with what is in a namespace: it lists and watches four kinds, writes the status of one,
and tells of what changes there. */}}
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
# Routes name certificates in their own namespace. Only Secrets of type kubernetes.io/tls are asked for, but RBAC cannot
# tell types apart.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
# Events have generated names, so no rule can name them.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
