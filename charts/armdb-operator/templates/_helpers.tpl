{{- define "armdb.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "armdb.serviceAccount" -}}
{{- default (include "armdb.name" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "armdb.selector" -}}
app.kubernetes.io/name: armdb-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "armdb.labels" -}}
{{ include "armdb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "armdb.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- /* The user name of the operator, as admission policies see it. */ -}}
{{- define "armdb.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "armdb.serviceAccount" . }}
{{- end }}
