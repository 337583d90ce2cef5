{{/* Name of the chart, in labels. */}}
{{- define "eventtrigger.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What names begin with. 40 characters leave room for what they end with. */}}
{{- define "eventtrigger.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Name of what belongs to the controller. */}}
{{- define "eventtrigger.controller" -}}
{{ include "eventtrigger.fullname" . }}-controller
{{- end }}

{{- define "eventtrigger.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "eventtrigger.controller" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* By these the controller's pods are found; they must never change. */}}
{{- define "eventtrigger.selectorLabels" -}}
app.kubernetes.io/name: {{ include "eventtrigger.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{/* On every object. */}}
{{- define "eventtrigger.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "eventtrigger.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "eventtrigger.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What the controller may do where its resources are. What it has made goes with
its owner; it deletes only the Deployment of an EventTrigger that wants none any more. */}}
{{- define "eventtrigger.rules" -}}
- apiGroups: [eventtrigger.dev]
  resources: [eventlogs, eventsinks, eventtriggers]
  verbs: [list, watch]
# As they are now, when an EventTrigger names them.
- apiGroups: [eventtrigger.dev]
  resources: [eventlogs, eventsinks]
  verbs: [get]
# Their finalizers, which stand in metadata.
- apiGroups: [eventtrigger.dev]
  resources: [eventlogs, eventtriggers]
  verbs: [patch]
- apiGroups: [eventtrigger.dev]
  resources: [eventlogs/status, eventsinks/status, eventtriggers/status]
  verbs: [patch]
# Connections and header values are read; what each log's workers need is written to a Secret of their own.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- with .Values.rbac.extraRules }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "eventtrigger.subjects" -}}
- kind: ServiceAccount
  name: {{ include "eventtrigger.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What a CRD has beside its name. */}}
{{- define "eventtrigger.crd.annotations" -}}
{{- if .Values.crds.keep }}
helm.sh/resource-policy: keep
{{- end }}
{{- with .Values.crds.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
