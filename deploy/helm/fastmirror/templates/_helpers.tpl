{{- define "fastmirror.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fastmirror.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fastmirror.labels" -}}
{{ include "fastmirror.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fastmirror.image" -}}
{{- $repository := required "image.repository: say where you pushed fastmirror's image, such as --set image.repository=registry.example/team/fastmirror" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "fastmirror.monitored" -}}
{{- if or .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}yes{{- end -}}
{{- end -}}

{{/* The settings that the chart chooses, under those that are given; as YAML. */}}
{{- define "fastmirror.config" -}}
{{- $node := eq .Values.exposure "hostNetwork" -}}
{{- $chosen := dict -}}
{{- $_ := set $chosen "registry_addr" (ternary "127.0.0.1:5000" "0.0.0.0:5000" $node) -}}
{{- $_ := set $chosen "peer_addr" "0.0.0.0:5001" -}}
{{- $_ := set $chosen "admin_addr" (ternary "127.0.0.1:5002" "0.0.0.0:5002" (and $node (not (include "fastmirror.monitored" .)))) -}}
{{- $_ := set $chosen "router_addr" "0.0.0.0:5003" -}}
{{- $_ := set $chosen "spool_dir" "/var/spool/fastmirror" -}}
{{- $_ := set $chosen "spool_bytes" "16GiB" -}}
{{- $_ := set $chosen "data_dir" "/var/lib/fastmirror" -}}
{{- $_ := set $chosen "drain_timeout" "25s" -}}
{{- if .Values.containerd.socket -}}
{{- $_ := set $chosen "store" (list (printf "containerd:%s,content=%s" .Values.containerd.socket .Values.containerd.content)) -}}
{{- else -}}
{{- $_ := set $chosen "store" (list (printf "content:%s" .Values.containerd.content)) -}}
{{- end -}}
{{- if .Values.admissionSecret.name -}}
{{- $_ := set $chosen "admission_secret_file" "/etc/fastmirror/admission/secrets" -}}
{{- end -}}
{{- $all := merge (deepCopy .Values.config) $chosen -}}
{{- if and (not (hasKey $all "bootstrap")) (not (hasKey $all "peers")) (ne (default "auto" $all.router) "static") -}}
{{- $port := regexFind "[0-9]+$" $all.router_addr -}}
{{- $_ := set $all "bootstrap" (list (printf "dns:%s-peers.%s.svc.%s:%s" (include "fastmirror.fullname" .) .Release.Namespace .Values.clusterDomain $port)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Bytes of a setting such as 16GiB or 1048576. */}}
{{- define "fastmirror.bytes" -}}
{{- $text := toString . -}}
{{- if kindIs "string" . -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexFind "[KMGT]" $text -}}
{{- range until (get (dict "" 0 "K" 1 "M" 2 "G" 3 "T" 4) $unit | int) -}}
{{- $number = mul $number 1024 -}}
{{- end -}}
{{- $number -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* Whole seconds of a setting such as 25, 2m or 500ms, rounded up. */}}
{{- define "fastmirror.seconds" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- $factor := get (dict "" 1.0 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) $unit -}}
{{- mulf $number $factor | ceil | int64 -}}
{{- end -}}

{{/* Where containerd finds the mirror. NODE_IP is a variable of the containers. */}}
{{- define "fastmirror.mirror" -}}
{{- $config := include "fastmirror.config" . | fromYaml -}}
{{- $port := regexFind "[0-9]+$" $config.registry_addr -}}
{{- if eq .Values.exposure "hostNetwork" -}}
http://127.0.0.1:{{ $port }}
{{- else if eq .Values.exposure "hostPort" -}}
http://$(NODE_IP):{{ $port }}
{{- else -}}
http://$(NODE_IP):{{ .Values.nodePort }}
{{- end -}}
{{- end -}}

{{- define "fastmirror.nodeEnv" -}}
- name: FASTMIRROR_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- if ne .Values.exposure "hostNetwork" }}
- name: NODE_IP
{{- if .Values.nodeAddress }}
  value: {{ .Values.nodeAddress | quote }}
{{- else }}
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "fastmirror.podSecurity" -}}
seccompProfile: {type: RuntimeDefault}
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Root of the node writes hosts.toml; without any capability, and nothing else is mounted. */}}
{{- define "fastmirror.writerSecurity" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "fastmirror.placing" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
