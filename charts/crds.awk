# Makes crds/crds.yaml templates of the chart, so that they are upgraded with it: what stands in a chart's folder crds/ Helm only ever
# installs. `make crds` runs it.
BEGIN { print "{{- /* Written by `make crds`. */ -}}"; print "{{- if .Values.crds.enabled }}" }
/^metadata:$/ { inside = 1; labels = annotations = 0 }
/^spec:$/ && inside {
  if (!labels) print "  labels:\n    {{- include \"eventtrigger.labels\" . | nindent 4 }}"
  if (!annotations) print "  {{- with include \"eventtrigger.crd.annotations\" . | trim }}\n  annotations:\n    {{- . | nindent 4 }}\n  {{- end }}"
  inside = 0
}
{ print }
inside && /^  labels:$/ { labels = 1; print "    {{- include \"eventtrigger.labels\" . | nindent 4 }}" }
inside && /^  annotations:$/ { annotations = 1; print "    {{- with include \"eventtrigger.crd.annotations\" . | trim }}\n    {{- . | nindent 4 }}\n    {{- end }}" }
END { print "{{- end }}" }
