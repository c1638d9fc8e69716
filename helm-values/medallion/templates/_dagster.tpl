{{/* dagster.yaml of all processes. */}}
{{- define "medallion.dagster" -}}
# Dagster's processes do less while nothing happens.
instance_class:
  module: medallion_platform.orchestration.instance
  class: Instance
storage:
  postgres:
    postgres_db:
      hostname: {{ .Values.postgres.host | quote }}
      port: {{ .Values.postgres.port }}
      db_name: {{ .Values.postgres.database | quote }}
      username: {{ .Values.postgres.user | quote }}
      password: {env: DAGSTER_PG_PASSWORD}
      params:
        sslmode: {{ .Values.postgres.sslmode }}
        {{- if hasPrefix "verify" .Values.postgres.sslmode }}
        sslrootcert: {{ include "medallion.authorityFile" . }}
        {{- end }}
# Only the daemon launches: a web server has no right to make pods.
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
    # A code location that moves to another node is away for about a minute.
    max_user_code_failure_retries: 40
    user_code_failure_retry_delay: 15
run_launcher:
  module: medallion_platform.orchestration.launcher
  class: Launcher
  config:
    {{- include "medallion.launcher" . | nindent 4 }}
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  start_timeout_seconds: {{ .Values.runs.startTimeout }}
  cancel_timeout_seconds: 180
  # A run that lost its pod begins again as another run; its own pod is never made twice.
  max_resume_run_attempts: 0
  # What a lost run held is free for its next try; whatever still works of it is fenced.
  free_slots_after_run_end_seconds: 10
# A run whose pod died is tried again; one that failed by itself is the business of whoever asked for it. Of runs
# of the platform's tables and jobs alone neither can be asked for more often (orchestration/retries.py).
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
concurrency:
  runs: {max_concurrent_runs: {{ .Values.runs.concurrent }}}
  pools:
    default_limit: 1
    granularity: op
# The log of a pod is collected by the cluster; a pod has no disk that outlives it.
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
# Freshness is the age of the data, which a sensor of the platform tells; Dagster's goes by the last run.
freshness: {enabled: false}
telemetry: {enabled: false}
nux: {enabled: false}
python_logs: {python_log_level: INFO}
{{- end }}

{{/* What K8sRunLauncher makes a run's pod from: the same pod as the chart's own. */}}
{{- define "medallion.launcher" -}}
{{- $run := dict "root" $ "component" "run" "disk" .Values.runs.disk -}}
job_namespace: {{ .Release.Namespace }}
service_account_name: {{ .Release.Name }}-run
instance_config_map: {{ .Release.Name }}-dagster
dagster_home: /data/dagster
image_pull_policy: {{ .Values.image.pullPolicy }}
{{- with .Values.image.pullSecrets }}
image_pull_secrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
env_config_maps: [{{ .Release.Name }}-settings]
volumes:
  {{- include "medallion.volumes" $run | nindent 2 }}
volume_mounts:
  {{- include "medallion.mounts" $run | nindent 2 }}
resources:
  {{- toYaml .Values.runs.resources | nindent 2 }}
security_context:
  {{- include "medallion.containerSecurity" . | nindent 2 }}
run_k8s_config:
  {{- mergeOverwrite (include "medallion.runConfig" $run | fromYaml) (deepCopy .Values.runs.config) | toYaml | nindent 2 }}
{{- end }}

{{- define "medallion.runConfig" -}}
container_config:
  command: {{ include "medallion.command" . }}
  env:
    {{- include "medallion.environment" . | nindent 4 }}
    {{- if .root.Values.history.events }}
    - {name: SPARK_CONF_DIR, value: /etc/medallion/spark}
    {{- end }}
pod_spec_config:
  automount_service_account_token: true
  enable_service_links: false
  {{- with .root.Values.priorityClasses.runs }}
  priority_class_name: {{ . }}
  {{- end }}
  security_context:
    {{- include "medallion.podSecurity" . | nindent 4 }}
  {{- with .root.Values.runs.nodeSelector }}
  node_selector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  tolerations:
    {{- include "medallion.tolerations" .root.Values.runs.tolerations | nindent 4 }}
# Of the pod alone: by Dagster's own labels of its Job the supervisor finds it.
pod_template_spec_metadata:
  labels:
    {{- include "medallion.selector" . | nindent 4 }}
job_spec_config:
  # The retry is Dagster's.
  backoff_limit: 0
  ttl_seconds_after_finished: {{ .root.Values.runs.keep }}
{{- end }}

{{/*
Feast's repository. Its store is a server, or there is none and nothing is published. Its registry is a part of Dagster's database: a pod has no disk that
others see. Feast puts variables in, so no password stands here.
*/}}
{{- define "medallion.features" -}}
# Other installations may publish to the same server.
project: {{ printf "%s_%s" .Release.Namespace .Release.Name | replace "-" "_" }}
provider: local
entity_key_serialization_version: 3
registry:
  registry_type: sql
  path: postgresql+psycopg2://{{ .Values.postgres.user }}:${DAGSTER_PG_PASSWORD}@{{ .Values.postgres.host }}:{{ .Values.postgres.port }}/{{ .Values.postgres.database }}?sslmode={{ .Values.postgres.sslmode }}
  {{- if hasPrefix "verify" .Values.postgres.sslmode }}&sslrootcert={{ include "medallion.authorityFile" . }}{{ end }}
  cache_ttl_seconds: 60
offline_store:
  type: duckdb
{{- if .Values.features.redis }}
online_store:
  type: redis
  connection_string: {{ .Values.features.redis | quote }}
{{- else }}
online_store: null
{{- end }}
{{- end }}
