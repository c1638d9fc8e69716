{{/* Names and labels. A component is what a pod does. */}}

{{- define "medallion.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Of a pod, and what selects it: (dict "root" $ "component" "web"). */}}
{{- define "medallion.selector" -}}
app.kubernetes.io/name: medallion
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of every other object. */}}
{{- define "medallion.labels" -}}
{{ include "medallion.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/*
What every pod has, whoever makes it: the chart, Dagster or Spark. So "nothing as root, nothing that can be written
but /tmp and /data, no secret in a specification" is said once.
*/}}

{{- define "medallion.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "medallion.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Mounted Secrets become variables, then the arguments are the command. */}}
{{- define "medallion.command" -}}
[tini, --, /etc/medallion/with-secrets]
{{- end }}

{{/* Which of `secrets` each component reads. */}}
{{- define "medallion.reads" -}}
web: [postgres]
daemon: [postgres]
code: [postgres, s3, kafka, tokenKey, channels, project]
run: [postgres, s3, kafka, tokenKey, project, redis]
executor: [s3, kafka, project]
stream: [postgres, s3, kafka, tokenKey, project]
supervise: []
history: [s3]
{{- end }}

{{/* Their names, as a YAML list. */}}
{{- define "medallion.components" -}}
{{ include "medallion.reads" . | fromYaml | keys | sortAlpha | toYaml }}
{{- end }}

{{- define "medallion.readsOf" -}}
{{ get (include "medallion.reads" . | fromYaml) .component | toJson }}
{{- end }}

{{/* The names of the Secrets that a component reads, as a JSON list. */}}
{{- define "medallion.secretsOf" -}}
{{- $names := list }}
{{- range include "medallion.readsOf" . | fromJsonArray }}
{{- with get $.root.Values.secrets . }}{{ $names = append $names . }}{{ end }}
{{- end }}
{{- toJson ($names | uniq) }}
{{- end }}

{{/* (dict "root" $ "component" "run" "disk" "20Gi"); disk: of /tmp and of /data. */}}
{{- define "medallion.volumes" -}}
- name: start
  configMap: {name: {{ .root.Release.Name }}-start, defaultMode: 0555}
{{- if has "postgres" (include "medallion.readsOf" . | fromJsonArray) }}
- name: dagster
  configMap: {name: {{ .root.Release.Name }}-dagster}
{{- end }}
{{- if eq .component "run" }}
- name: executor
  configMap: {name: {{ .root.Release.Name }}-executor}
{{- end }}
{{- with include "medallion.secretsOf" . | fromJsonArray }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
    {{- range . }}
    - secret: {name: {{ . }}}
    {{- end }}
{{- end }}
{{- if has .component (list "run" "executor") }}
- name: spark
  projected:
    defaultMode: 0440
    sources:
    - secret:
        name: {{ include "medallion.trust" .root }}
        {{- if .root.Values.certManager.issuer.name }}
        items: [{key: secret, path: secret}]
    - secret:
        name: {{ .root.Release.Name }}-spark-tls
        items: [{key: tls.key, path: tls.key}, {key: tls.crt, path: tls.crt}]
        {{- end }}
{{- end }}
{{- with .root.Values.authority }}
- name: authority
  configMap: {name: {{ . }}}
{{- end }}
- name: {{ include "medallion.tmp" . }}
  emptyDir: {sizeLimit: {{ .disk | default "1Gi" }}}
- name: data
  emptyDir: {sizeLimit: {{ .disk | default "1Gi" }}}
{{- end }}

{{/* Spark takes a volume whose name begins so for what it spills, and else would mount one of its own at /tmp. */}}
{{- define "medallion.tmp" -}}
{{ ternary "spark-local-dir-1" "tmp" (eq .component "executor") }}
{{- end }}

{{- define "medallion.mounts" -}}
- {name: start, mountPath: /etc/medallion/with-secrets, subPath: with-secrets, readOnly: true}
{{- if include "medallion.secretsOf" . | fromJsonArray }}
- {name: secrets, mountPath: /run/secrets/medallion, readOnly: true}
{{- end }}
{{- if has .component (list "run" "executor") }}
- {name: spark, mountPath: /run/secrets/spark, readOnly: true}
{{- end }}
{{- if .root.Values.authority }}
- {name: authority, mountPath: /etc/medallion/authority, readOnly: true}
{{- end }}
- {name: {{ include "medallion.tmp" . }}, mountPath: /tmp}
- {name: data, mountPath: /data}
{{- if has "postgres" (include "medallion.readsOf" . | fromJsonArray) }}
# Folders of their own: else that of a single file would belong to root.
- {name: data, mountPath: /data/dagster, subPath: dagster}
- {name: dagster, mountPath: /data/dagster/dagster.yaml, subPath: dagster.yaml, readOnly: true}
- {name: dagster, mountPath: /etc/medallion/workspace.yaml, subPath: workspace.yaml, readOnly: true}
{{- end }}
{{- if eq .component "run" }}
- {name: executor, mountPath: /etc/medallion/executor.yaml, subPath: executor.yaml, readOnly: true}
{{- if .root.Values.history.events }}
- {name: dagster, mountPath: /etc/medallion/spark/spark-defaults.conf, subPath: spark-defaults.conf, readOnly: true}
{{- end }}
{{- end }}
{{- if has .component (list "code" "run") }}
- {name: data, mountPath: /data/features, subPath: features}
- {name: dagster, mountPath: /data/features/feature_store.yaml, subPath: feature_store.yaml, readOnly: true}
{{- end }}
{{- end }}

{{- define "medallion.environment" -}}
# By which `medallion doctor` knows what this pod needs.
- {name: MEDALLION_ROLE, value: {{ .component }}}
{{- if .root.Values.authority }}
- {name: SSL_CERT_FILE, value: /etc/medallion/authority/ca.crt}
{{- end }}
{{- end }}

{{- define "medallion.authorityFile" -}}
{{ ternary "/etc/medallion/authority/ca.crt" "/etc/ssl/certs/ca-certificates.crt" (not (empty .Values.authority)) }}
{{- end }}

{{/* Whoever calls the API server gets a token. */}}
{{- define "medallion.hasRights" -}}
{{ hasKey (include "medallion.rights" .root | fromYaml) .component }}
{{- end }}

{{/*
The specification of a pod that the chart starts itself:
(dict "root" $ "component" "web" "values" .Values.web "args" (list ...) "more" "the container's ports and probes"
"priority" "stream" "settings" true "needs" (list "lake") "spread" labels); settings: it is given the settings of data;
needs: the doctor's checks of what it cannot work without, for which it waits; spread: over zones and nodes among pods
with these labels.
*/}}
{{- define "medallion.pod" -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
automountServiceAccountToken: {{ include "medallion.hasRights" . }}
enableServiceLinks: false
{{- with get .root.Values.priorityClasses (.priority | default "services") }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- include "medallion.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .grace }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- if .needs }}
{{- $look := list "medallion" "doctor" "--wait" "60" }}
{{- range .needs }}{{ $look = concat $look (list "--only" .) }}{{ end }}
initContainers:
- name: doctor
  {{- include "medallion.container" (merge (dict "args" $look) .) | nindent 2 }}
{{- end }}
containers:
- name: {{ .component }}
  {{- include "medallion.container" . | nindent 2 }}
  {{- with .more }}
  {{- . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "medallion.volumes" . | nindent 2 }}
{{- with .spread }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- $.spread | nindent 6 }}
{{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  {{- include "medallion.tolerations" .values.tolerations | nindent 2 }}
{{- end }}

{{/* What was on a lost node is given up after half a minute, and not after the five that Kubernetes waits by itself. */}}
{{- define "medallion.tolerations" -}}
- {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
- {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "medallion.container" -}}
image: {{ include "medallion.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: {{ include "medallion.command" . }}
args: {{ toJson .args }}
securityContext:
  {{- include "medallion.containerSecurity" . | nindent 2 }}
env:
  {{- include "medallion.environment" . | nindent 2 }}
{{- if .settings }}
envFrom:
- configMapRef: {name: {{ .root.Release.Name }}-settings}
{{- end }}
resources:
  {{- toYaml .values.resources | nindent 2 }}
volumeMounts:
  {{- include "medallion.mounts" . | nindent 2 }}
{{- end }}

{{/* Changes with the configuration, so that a changed one starts new pods. */}}
{{- define "medallion.checksum" -}}
checksum/config: {{ include (print .Template.BasePath "/config.yaml") . | sha256sum }}
{{- end }}
