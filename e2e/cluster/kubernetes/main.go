// Command kubernetes is every program of a one-node Kubernetes in one file: etcd, the servers,
// kubeadm (which makes certificates and installs the DNS add-on), kubectl, and a provisioner of storage. It runs the component
// whose name it was called by (a symlink), or that its first argument names.
//
// One file rather than eight: the components share almost all of their packages, so that linking
// them together takes an eighth of the time and of the disk.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components runs each program; the process exits with what its function returns.
var components = map[string]func() int{
	"etcd":                    runEtcd,
	"kubeadm":                 runKubeadm,
	"kubectl":                 runKubectl,
	"kube-apiserver":          run(apiserver.NewAPIServerCommand),
	"kube-controller-manager": run(controllers.NewControllerManagerCommand),
	"kube-scheduler":          run(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              run(proxy.NewProxyCommand),
	"storage":                 runStorage,
	// The kubelet sets up its own signal context; a second one panics.
	"kubelet": run(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func run(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

// runEtcd gives etcd its arguments with its own name first: it prints the name, but was perhaps not called by it.
func runEtcd() int {
	etcdmain.Main(append([]string{"etcd"}, os.Args[1:]...))
	return 0
}

func runKubeadm() int {
	if err := kubeadm.Run(); err != nil {
		return 1
	}
	return 0
}

// runKubectl leaves with the exit code that kubectl documents (`kubectl diff`, `exec`): CheckErr exits by itself.
func runKubectl() int {
	util.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	return 0
}

func main() {
	name := filepath.Base(os.Args[0])
	if components[name] == nil && len(os.Args) > 1 {
		name, os.Args = os.Args[1], os.Args[1:]
	}
	component, ok := components[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown component %q\n", name)
		os.Exit(2)
	}
	os.Exit(component())
}
