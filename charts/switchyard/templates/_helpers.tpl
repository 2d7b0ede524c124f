{{- define "switchyard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "switchyard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "switchyard.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of the Service with the admin port, which is also a DNS label. */}}
{{- define "switchyard.metricsName" -}}
{{- printf "%s-metrics" (include "switchyard.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "switchyard.selectorLabels" -}}
app.kubernetes.io/name: {{ include "switchyard.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* For the pod of `helm test`, which no selector may match as a proxy. */}}
{{- define "switchyard.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "switchyard.name" . | trunc 58 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "switchyard.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "switchyard.labels" -}}
{{ include "switchyard.selectorLabels" . }}
{{ include "switchyard.commonLabels" . }}
{{- end -}}

{{- define "switchyard.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "switchyard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "switchyard.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "switchyard.sessionKeySecret" -}}
{{- default (printf "%s-session-key" (include "switchyard.fullname" .)) .Values.sessionKey.existingSecret -}}
{{- end -}}

{{/* A duration such as 1h30m or 500ms (GEP-2257) in milliseconds. */}}
{{- define "switchyard.milliseconds" -}}
{{- $units := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- /* Without leading zeros, which would make it octal. */ -}}
{{- $number := regexReplaceAll "^0*([0-9]+)(ms|h|m|s)$" . "${1}" -}}
{{- $sum = add $sum (mul (int64 $number) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/*
Termination grace period of a pod. After the drain window, the last requests and tunnels have up to 11 s, and those that
are then aborted have 2 s: 13, plus a margin for a busy node.
*/}}
{{- define "switchyard.gracePeriod" -}}
{{- $delay := include "switchyard.milliseconds" .Values.shutdownDelay | int64 -}}
{{- $window := include "switchyard.milliseconds" .Values.drainWindow | int64 -}}
{{- $least := add (div (add $delay $window 999) 1000) 13 -}}
{{- $given := int64 .Values.terminationGracePeriodSeconds -}}
{{- if not $given -}}
{{- add $least 2 -}}
{{- else if lt $given $least -}}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be at least %d, the sum of shutdownDelay, drainWindow and 13 s, or tunnels are aborted; 0 derives it" $given $least) -}}
{{- else -}}
{{- $given -}}
{{- end -}}
{{- end -}}

{{/* The port for redirects: where clients reach TLS, as far as the chart knows. */}}
{{- define "switchyard.publicHttpsPort" -}}
{{- if .Values.publicHttpsPort -}}
{{- int .Values.publicHttpsPort -}}
{{- else if .Values.service.enabled -}}
{{- int .Values.service.httpsPort -}}
{{- else if .Values.hostPorts.enabled -}}
{{- int .Values.hostPorts.https -}}
{{- else -}}
443
{{- end -}}
{{- end -}}

{{/* Whether a value is set: 0 is, null and the empty string are not. */}}
{{- define "switchyard.isGiven" -}}
{{- if not (or (kindIs "invalid" .) (eq (toString .) "")) -}}true{{- end -}}
{{- end -}}

{{/* The CPU target, 0 for none. A few busy tunnels reach the default, so it must not override another target. */}}
{{- define "switchyard.targetCPU" -}}
{{- with .Values.autoscaling -}}
{{- if include "switchyard.isGiven" .targetCPUUtilization -}}
{{- int .targetCPUUtilization -}}
{{- else if or .targetTunnelsPerPod .targetMemoryUtilization -}}
0
{{- else -}}
80
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Values that contradict each other. */}}
{{- define "switchyard.validate" -}}
{{- if .Values.autoscaling.enabled -}}
{{- if eq .Values.kind "DaemonSet" -}}
{{- fail "autoscaling.enabled needs kind: Deployment: a DaemonSet runs one pod per node" -}}
{{- end -}}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) -}}
{{- fail "autoscaling.maxReplicas must be at least autoscaling.minReplicas" -}}
{{- end -}}
{{- $resources := .Values.resources | default dict -}}
{{- $shares := dict "targetCPUUtilization" (include "switchyard.targetCPU" .) "targetMemoryUtilization" .Values.autoscaling.targetMemoryUtilization -}}
{{- range $target, $resource := dict "targetCPUUtilization" "cpu" "targetMemoryUtilization" "memory" -}}
{{- $requested := or (dig "requests" $resource "" $resources) (dig "limits" $resource "" $resources) -}}
{{- if and (int (get $shares $target)) (not $requested) -}}
{{- fail (printf "autoscaling.%s is a share of resources.requests.%s, which is not set" $target $resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.service.enabled (eq (int .Values.service.httpPort) (int .Values.service.httpsPort)) -}}
{{- fail "service.httpPort and service.httpsPort must be different ports" -}}
{{- end -}}
{{- if and .Values.hostPorts.enabled (eq (int .Values.hostPorts.http) (int .Values.hostPorts.https)) -}}
{{- fail "hostPorts.http and hostPorts.https must be different ports" -}}
{{- end -}}
{{- if and .Values.service.httpNodePort (eq (int .Values.service.httpNodePort) (int .Values.service.httpsNodePort)) -}}
{{- fail "service.httpNodePort and service.httpsNodePort must be different ports" -}}
{{- end -}}
{{- $ours := include "switchyard.labels" . | fromYaml -}}
{{- $others := dict "podLabels" .Values.podLabels "dashboard.labels" .Values.dashboard.labels "metrics.serviceMonitor.labels" .Values.metrics.serviceMonitor.labels -}}
{{- range $where, $labels := $others -}}
{{- range $label, $_ := $labels -}}
{{- if hasKey $ours $label -}}
{{- fail (printf "%s.%s must not override a label of the chart" $where $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.defaultCertificate .Values.watchNamespaces -}}
{{- $namespace := splitList "/" .Values.defaultCertificate | first -}}
{{- if not (has $namespace .Values.watchNamespaces) -}}
{{- fail (printf "defaultCertificate must be in one of watchNamespaces, got namespace %s" $namespace) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.service.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.service.enabled" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.egress.restrict (not .Values.networkPolicy.egress.apiServer) -}}
{{- fail "networkPolicy.egress.restrict needs networkPolicy.egress.apiServer: without the API server no proxy becomes ready" -}}
{{- end -}}
{{- end -}}

{{/* The Lease of the replica that writes statuses, named as in src/report/replicas/identity.rs. */}}
{{- define "switchyard.leaderLease" -}}
{{- $scope := "" -}}
{{- with .Values.watchNamespaces -}}
{{- $scope = sortAlpha . | uniq | join "," | sha256sum | trunc 8 | printf ".%s" -}}
{{- end -}}
switchyard-{{ .Values.className }}{{ $scope }}
{{- end -}}
