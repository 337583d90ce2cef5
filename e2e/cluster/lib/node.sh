# Process 1 of the cluster's namespaces: writes the configuration, starts every server, and ends when one of them does.
# Sourced by `cluster`.

# Of this network namespace, which reaches no other: every cluster has the same.
node_ip=172.30.0.2 pod_cidr=10.244.0.0/24 service_cidr=10.96.0.0/16 dns_ip=10.96.0.10

node() {
  export PATH=$programs/bin:$PATH KUBECONFIG=$kubeconfig
  pki=$state/pki
  mkdir -p "$state"/{pki,log/pods,log/containers,cni.d,cni,volumes,kubelet}
  make_mounts
  make_network
  make_cgroup
  make_certificates
  start_control_plane
  start_containerd
  load_images &
  local loading=$!
  within 120 "the API server" kubectl get --raw /readyz
  start_controllers
  wait $loading || fail "failed to load images"
  start_kubelet
  install_dns
  install_storage_class
  within 120 "the node to be ready" kubectl wait --for=condition=Ready node/node --timeout=1s
  # Not its condition Available, which holds with no pod at all: the Deployment tolerates that one is unavailable.
  within 120 "DNS to answer" kubectl --namespace kube-system wait --for=jsonpath='{.status.readyReplicas}'=1 deployment/coredns --timeout=1s
  kubectl get nodes -o wide >"$state/ready.new"
  mv "$state/ready.new" "$state/ready"
  # A cluster that lacks a server would fail tests in ways that say nothing: rather let all of it end.
  local pid
  wait -n -p pid || true
  echo "${names[$pid]} has ended, and with it the cluster; \`cluster logs\` tells why"
}

load_images() {
  within 60 "containerd" ctr version
  local archive
  for archive in "$programs"/images/*.tar "$postgres"; do import "$archive"; done
}

declare -A names=()
start() { # NAME ARGS...: a server in the background, its output in log/NAME.log
  local name=$1; shift
  "$name" "$@" >"$state/log/$name.log" 2>&1 &
  names[$!]=$name
}

make_mounts() {
  # The kubelet hands mounts on to containers only below a shared mount.
  mount --make-rshared /
  # shellcheck disable=SC2086 # a list of words
  mkdir -p $mount_points
  # Sockets, whose paths must be short, and images: in memory (half a gigabyte), because to unpack them to a disk takes
  # half of the time of `up`, and to remove them from there nearly all of the time of `down`.
  mount -t tmpfs tmpfs /run/containerd
  mount --make-shared /run/containerd
  mount --bind "$state/kubelet" /var/lib/kubelet
  mount --make-shared /var/lib/kubelet
  mount --bind "$state/log/containers" /var/log/containers
  mount --bind "$state/cni" /var/lib/cni
}

make_network() {
  ip link set lo up
  # Something that has the node's address. A bridge, because not every kernel has `dummy` devices.
  ip link add eth0 type bridge
  ip address add $node_ip/24 dev eth0
  ip link set eth0 up
  # Leads nowhere, but without a default route the API server and kube-proxy do not tell which address is theirs.
  ip route add default via 172.30.0.1 dev eth0
  sysctl --quiet --write net.ipv4.ip_forward=1
  # Answers from a pod to a pod pass the bridge only; without this they would escape the translation of the Service's
  # address. Some kernels have it built in, in others it is a module.
  modprobe --quiet br_netfilter 2>/dev/null || true
  sysctl --quiet --write net.bridge.bridge-nf-call-iptables=1
}

# All pods in one control group of this cluster's own, so that several clusters and other kubelets do not meet.
make_cgroup() {
  local controllers=/sys/fs/cgroup controller
  if [ -e $controllers/cgroup.controllers ]; then # version 2
    for controller in $(<$controllers/cgroup.controllers); do
      echo "+$controller" >$controllers/cgroup.subtree_control 2>/dev/null || true # most are on already
    done
    mkdir "$controllers/$cgroup"
  else
    for controller in "$controllers"/*/; do
      mkdir "$controller/$cgroup" 2>/dev/null || true # several names may lead to one
    done
  fi
}

# kubeadm for what it knows best: certificates, kubeconfigs, and (below) the DNS add-on.
make_certificates() {
  cat >"$state/kubeadm.yaml" <<-Y
	apiVersion: kubeadm.k8s.io/v1beta4
	kind: InitConfiguration
	localAPIEndpoint: {advertiseAddress: $node_ip, bindPort: 6443}
	nodeRegistration: {name: node}
	---
	apiVersion: kubeadm.k8s.io/v1beta4
	kind: ClusterConfiguration
	kubernetesVersion: $kubernetes_version
	certificatesDir: $pki
	controlPlaneEndpoint: $node_ip:6443
	apiServer: {certSANs: [127.0.0.1, localhost]}
	dns: {imageRepository: localhost, imageTag: "1"}
	networking: {podSubnet: $pod_cidr, serviceSubnet: $service_cidr}
	Y
  kubeadm init phase certs all --config "$state/kubeadm.yaml" >"$state/log/kubeadm.log" 2>&1
  kubeadm init phase kubeconfig all --config "$state/kubeadm.yaml" --kubeconfig-dir "$state" >>"$state/log/kubeadm.log" 2>&1
}

start_control_plane() {
  # No fsync: the data is thrown away with the cluster.
  start etcd --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  # For tests that compare what an account may do with what it does: who did what to which object, without its content.
  cat >"$state/audit-policy.yaml" <<-Y
	apiVersion: audit.k8s.io/v1
	kind: Policy
	omitStages: [RequestReceived]
	rules: [{level: Metadata}]
	Y
  # As kubeadm would set it up.
  start kube-apiserver --advertise-address=$node_ip --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=$service_cidr \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
    --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$pki/front-proxy-client.crt" --proxy-client-key-file="$pki/front-proxy-client.key" \
    --audit-policy-file="$state/audit-policy.yaml" --audit-log-path="$audit_log"
}

start_controllers() {
  start kube-controller-manager --kubeconfig="$state/controller-manager.conf" --leader-elect=false --use-service-account-credentials=true \
    --authentication-kubeconfig="$state/controller-manager.conf" --authorization-kubeconfig="$state/controller-manager.conf" \
    --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
  start kube-scheduler --kubeconfig="$state/scheduler.conf" --leader-elect=false \
    --authentication-kubeconfig="$state/scheduler.conf" --authorization-kubeconfig="$state/scheduler.conf"
  start storage --kubeconfig="$kubeconfig" --directory="$state/volumes"
}

start_containerd() {
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE (in most containers, and some virtual machines) a process may not
  # lower this value; runc then dies with "can't get final child's PID from pipe".
  cat >"$state/containerd.toml" <<-T
	version = 2
	root = "/run/containerd/root"
	state = "/run/containerd/state"
	[grpc]
	address = "/run/containerd/containerd.sock"
	[plugins."io.containerd.grpc.v1.cri"]
	sandbox_image = "localhost/pause:1"
	restrict_oom_score_adj = true
	netns_mounts_under_state_dir = true
	[plugins."io.containerd.grpc.v1.cri".cni]
	bin_dir = "/usr/lib/cni"
	conf_dir = "$state/cni.d"
	T
  cat >"$state/cni.d/10-bridge.conflist" <<-J
	{"cniVersion": "1.0.0", "name": "pods", "plugins": [
	  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
	   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	J
  start containerd --config "$state/containerd.toml"
}

start_kubelet() {
  # Lets `kubectl logs` and `exec` through: kubeadm gives the API server's kubelet client this group.
  kubectl create clusterrolebinding kubeadm:cluster-admins --clusterrole=cluster-admin --group=kubeadm:cluster-admins >/dev/null
  # failCgroupV1, failSwapOn: whatever the machine has must do. resolvConf: nothing outside can be reached, so that its
  # name servers are of no use. eviction and image collection: the disk is the machine's, mostly full of other things.
  cat >"$state/kubelet.yaml" <<-Y
	apiVersion: kubelet.config.k8s.io/v1beta1
	kind: KubeletConfiguration
	authentication: {x509: {clientCAFile: $pki/ca.crt}, webhook: {enabled: true}, anonymous: {enabled: false}}
	authorization: {mode: Webhook}
	cgroupDriver: cgroupfs
	cgroupRoot: /$cgroup
	failCgroupV1: false
	failSwapOn: false
	clusterDNS: [$dns_ip]
	clusterDomain: cluster.local
	containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
	podLogsDir: $state/log/pods
	resolvConf: ""
	imageGCHighThresholdPercent: 100
	evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 100Mi}
	Y
  start kubelet --kubeconfig="$state/kubelet.conf" --config="$state/kubelet.yaml" --node-ip=$node_ip --hostname-override=node
  # conntrack: its limits belong to the machine's network, not to this one.
  cat >"$state/proxy.yaml" <<-Y
	apiVersion: kubeproxy.config.k8s.io/v1alpha1
	kind: KubeProxyConfiguration
	clientConnection: {kubeconfig: $kubeconfig}
	clusterCIDR: $pod_cidr
	mode: iptables
	hostnameOverride: node
	conntrack: {maxPerCore: 0}
	Y
  start kube-proxy --config="$state/proxy.yaml"
}

install_dns() {
  kubeadm init phase addon coredns --config "$state/kubeadm.yaml" --kubeconfig "$kubeconfig" >>"$state/log/kubeadm.log" 2>&1
  # kubeadm's would ask the machine's name servers about other names; nothing answers from in here, so those do not exist.
  # Two zones, because `template` comes before `kubernetes` within one. Short lives, for tests that create what they name.
  kubectl --namespace kube-system patch configmap coredns --type=merge --patch-file=/dev/stdin >/dev/null <<-'Y'
	data:
	  Corefile: |
	    cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
	        errors
	        ready
	        kubernetes cluster.local in-addr.arpa ip6.arpa {
	            pods insecure
	            ttl 5
	        }
	        cache 5
	        loadbalance
	    }
	    .:53 {
	        errors
	        health {
	            lameduck 5s
	        }
	        prometheus :9153
	        reload
	        template ANY ANY {
	            rcode NXDOMAIN
	        }
	    }
	Y
  kubectl --namespace kube-system scale deployment coredns --replicas=1 >/dev/null
}

install_storage_class() {
  kubectl apply --filename=- >/dev/null <<-'Y'
	apiVersion: storage.k8s.io/v1
	kind: StorageClass
	metadata:
	  name: standard
	  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
	provisioner: eventtrigger.dev/local
	reclaimPolicy: Delete
	volumeBindingMode: WaitForFirstConsumer
	Y
}
