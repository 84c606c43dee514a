{{- define "veilstream.name" -}}
{{- if contains "veilstream" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-veilstream" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "veilstream.selector" -}}
app.kubernetes.io/name: veilstream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "veilstream.labels" -}}
{{ include "veilstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "veilstream.config" -}}
{{- $remote := dict "listen" "0.0.0.0:9465" "certificate" "/run/secrets/veilstream-tls/tls.crt" "key" "/run/secrets/veilstream-tls/tls.key" "token" (dict "file" "/run/secrets/veilstream-metrics/token") }}
{{- $fixed := dict "policies" (list "policies/*.yaml") "keys" "/run/secrets/veilstream-keys/keys.json" "telemetry" (dict "log_format" "json" "remote" $remote) }}
{{- mergeOverwrite $fixed (deepCopy .Values.config) | toYaml }}
{{- end }}
