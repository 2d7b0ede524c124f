{{/* The pod template, the same for Deployment and DaemonSet. */}}
{{- define "switchyard.podTemplate" -}}
metadata:
  labels:
    {{- include "switchyard.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "switchyard.serviceAccountName" . | quote }}
  automountServiceAccountToken: true
  # Not used, and their names have the same prefix as our own variables.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "switchyard.gracePeriod" . }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
  - name: switchyard
    image: {{ include "switchyard.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      {{- include "switchyard.args" . | nindent 6 }}
    # The pod's identity, for its Leases and Events.
    env:
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: POD_NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    - name: POD_UID
      valueFrom: {fieldRef: {fieldPath: metadata.uid}}
    # Routes must not use the proxy itself as a backend.
    - name: POD_IPS
      valueFrom: {fieldRef: {fieldPath: status.podIPs}}
    ports:
    - name: http
      containerPort: 8080
      {{- if .Values.hostPorts.enabled }}
      hostPort: {{ .Values.hostPorts.http }}
      {{- end }}
    - name: https
      containerPort: 8443
      {{- if .Values.hostPorts.enabled }}
      hostPort: {{ .Values.hostPorts.https }}
      {{- end }}
    - name: admin
      containerPort: 9090
    # Ready once the first table is published; problems with the API server do not make it unready again.
    readinessProbe:
      httpGet: {path: /readyz, port: admin}
      periodSeconds: 2
      failureThreshold: 2
    # It responds from the start, so no startup probe is needed.
    livenessProbe:
      httpGet: {path: /livez, port: admin}
      periodSeconds: 10
      failureThreshold: 6
    {{- with .Values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
    - {name: session-key, mountPath: /etc/switchyard/session, readOnly: true}
    {{- if (.Values.adminToken).existingSecret }}
    - {name: admin-token, mountPath: /etc/switchyard/admin, readOnly: true}
    {{- end }}
    {{- if .Values.hostnameOwners }}
    - {name: hostname-owners, mountPath: /etc/switchyard/hostnames, readOnly: true}
    {{- end }}
  volumes:
  - name: session-key
    secret:
      secretName: {{ include "switchyard.sessionKeySecret" . | quote }}
      # 0440; in decimal because YAML versions read octal differently.
      defaultMode: 288
      items:
      - {key: {{ .Values.sessionKey.entry | quote }}, path: keys}
  {{- if (.Values.adminToken).existingSecret }}
  - name: admin-token
    secret:
      secretName: {{ .Values.adminToken.existingSecret | quote }}
      defaultMode: 288
      items:
      - {key: {{ .Values.adminToken.entry | quote }}, path: tokens}
  {{- end }}
  {{- if .Values.hostnameOwners }}
  - name: hostname-owners
    configMap:
      name: {{ include "switchyard.fullname" . }}-hostname-owners
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $constraint := . }}
    {{- if not .labelSelector }}
    {{- $ours := dict "labelSelector" (dict "matchLabels" (include "switchyard.selectorLabels" $ | fromYaml)) }}
    {{- if and (eq $.Values.kind "Deployment") (not (hasKey . "matchLabelKeys")) }}
    {{- /* Each revision is spread separately: old pods will stop, and must not crowd the new ones together. */}}
    {{- $_ := set $ours "matchLabelKeys" (list "pod-template-hash") }}
    {{- end }}
    {{- $constraint = merge $ours . }}
    {{- end }}
    - {{- toYaml $constraint | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "switchyard.args" -}}
- controller
- --class={{ .Values.className }}
- --http-listen=[::]:8080
- --https-listen=[::]:8443
- --admin-listen=[::]:9090
- --public-https-port={{ include "switchyard.publicHttpsPort" . }}
- --session-key-file=/etc/switchyard/session/keys
{{- if (.Values.adminToken).existingSecret }}
- --admin-token-file=/etc/switchyard/admin/tokens
{{- end }}
- --shutdown-delay={{ .Values.shutdownDelay }}
- --drain-window={{ .Values.drainWindow }}
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
{{- with .Values.watchNamespaces }}
- --namespaces={{ join "," . }}
{{- end }}
{{- if .Values.threads }}
- --threads={{ .Values.threads }}
{{- end }}
{{- with .Values.defaultCertificate }}
- --default-certificate={{ . }}
{{- end }}
{{- with .Values.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- with .Values.protectedFields }}
- --protected-fields={{ join "," . }}
{{- end }}
{{- with .Values.maxConnectionsPerClient }}
- --max-connections-per-client={{ int64 . }}
{{- end }}
{{- if .Values.allowSharedHostnames }}
- --allow-shared-hostnames
{{- end }}
{{- if .Values.hostnameOwners }}
- --hostname-owners=/etc/switchyard/hostnames/owners.yaml
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
