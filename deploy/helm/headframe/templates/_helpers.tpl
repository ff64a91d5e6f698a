{{/* Names, labels, and what all pods have in common. Names end with the service, so `kubectl get pods` reads like the list of services. */}}

{{- define "headframe.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Which stores and nodes a service talks to. Its environment, its secrets and its network policy are made of this. */}}
{{- define "headframe.needs" -}}
stratumd: [kafka, redis, node]
jobmanager: [kafka, redis, node]
shareproc: [kafka, redis]
blocksubmit: [kafka, node]
statsd: [kafka, influx]
payoutd: [kafka, database, node]
apiserver: [kafka, redis, database, influx]
{{- end -}}

{{/* The secrets that come with each. */}}
{{- define "headframe.secretOf" -}}
kafka: KAFKA_PASSWORD
database: DATABASE_URL
redis: REDIS_URL
influx: INFLUX_TOKEN
node: BITCOIN_RPC_PASSWORD
{{- end -}}

{{- define "headframe.selector" -}}
app.kubernetes.io/name: headframe
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end -}}

{{- define "headframe.labels" -}}
{{ include "headframe.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headframe
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "headframe.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "headframe.secretName" -}}
{{ .Values.secrets.existingSecret | default (printf "%s-secrets" (include "headframe.name" .)) }}
{{- end -}}

{{/* A pod is replaced when what it was started with has changed. */}}
{{- define "headframe.annotations" -}}
headframe/settings: {{ .root.Values.settings | toJson | sha256sum }}
headframe/secrets: {{ printf "%s %s" .root.Values.secrets.revision (.root.Values.secrets.values | toJson) | sha256sum }}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end -}}

{{- define "headframe.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "headframe.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "headframe.environment" -}}
{{- $settings := merge (dict "SERVICE_NAME" .service "DATA_DIR" "/data" "METRICS_ADDR" "0.0.0.0" "METRICS_PORT" "9090" "LOG_FORMAT" "json") .root.Values.settings -}}
{{- with .root.Values.kafka }}
{{- if .tls }}{{ $_ := set $settings "KAFKA_TLS" "on" }}{{ end }}
{{- if .certificates }}{{ $_ := set $settings "KAFKA_TLS_CA_FILE" "/kafka-tls/ca.crt" }}{{ end }}
{{- if .clientCertificate }}
{{- $_ := set $settings "KAFKA_TLS_CERT_FILE" "/kafka-tls/tls.crt" }}
{{- $_ := set $settings "KAFKA_TLS_KEY_FILE" "/kafka-tls/tls.key" }}
{{- end }}
{{- end }}
{{- range $name, $value := $settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- $secretOf := include "headframe.secretOf" .root | fromYaml }}
{{- range get (include "headframe.needs" .root | fromYaml) .service }}
{{- if hasKey $secretOf . }}
- name: {{ get $secretOf . }}
  valueFrom:
    secretKeyRef:
      name: {{ include "headframe.secretName" $.root }}
      key: {{ get $secretOf . }}
      {{- if ne . "database" }}
      # Kafka, Redis and InfluxDB may do without, and a node may be named with a cookie file.
      optional: true
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "headframe.kafkaMount" -}}
{{- if .Values.kafka.certificates }}
- name: kafka-tls
  mountPath: /kafka-tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "headframe.kafkaVolume" -}}
{{- with .Values.kafka.certificates }}
- name: kafka-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* /live: start it anew. /ready: send nobody here. A service that waits for a dependency lives. */}}
{{- define "headframe.probes" -}}
startupProbe:
  httpGet: { path: /live, port: private }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /live, port: private }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /ready, port: private }
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* Not two of a kind on one machine, where that is possible. */}}
{{- define "headframe.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "headframe.selector" . | nindent 6 }}
{{- end -}}
