package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// provisioner is the name that a StorageClass asks for this one by.
	provisioner = "eventtrigger.dev/local"
	// Set on a claim by the controller manager and by the scheduler, for whoever provisions outside of them:
	// https://github.com/kubernetes/design-proposals-archive/blob/main/storage/container-storage-interface.md
	provisionerAnnotation = "volume.kubernetes.io/storage-provisioner"
	nodeAnnotation        = "volume.kubernetes.io/selected-node"
	// Set on a volume, so that only what was made here is deleted here.
	madeByAnnotation = "pv.kubernetes.io/provisioned-by"
)

// storage makes a directory of the node a volume for each claim that the scheduler has placed, and deletes both when
// the claim is gone. Its volumes are of type `local`, to which the kubelet applies a pod's fsGroup as it does to a
// cloud's disks; the controller manager's own provisioner (--enable-hostpath-provisioner) makes `hostPath` volumes with
// mode 0750, owned by root, which no pod of the restricted security profile can write to.
type storage struct {
	client    kubernetes.Interface
	directory string
}

func runStorage() int {
	flags := flag.NewFlagSet("storage", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to reach the API server")
	directory := flags.String("directory", "", "where the volumes are")
	_ = flags.Parse(os.Args[1:])
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.ErrorS(err, "Failed to read the kubeconfig")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := storage{client: kubernetes.NewForConfigOrDie(config), directory: *directory}

	// The resync is the retry: it hands every object to the handlers again, and both are idempotent.
	factory := informers.NewSharedInformerFactory(s.client, 5*time.Second)
	watch := func(informer cache.SharedIndexInformer, handle func(context.Context, any) error) {
		do := func(object any) {
			if err := handle(ctx, object); err != nil {
				klog.ErrorS(err, "Will try again")
			}
		}
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    do,
			UpdateFunc: func(_, object any) { do(object) },
		})
	}
	watch(factory.Core().V1().PersistentVolumeClaims().Informer(), s.provision)
	watch(factory.Core().V1().PersistentVolumes().Informer(), s.remove)
	factory.Start(ctx.Done())
	<-ctx.Done()
	return 0
}

// provision makes the volume of a claim that waits for one; the controller manager then binds the two.
func (s storage) provision(ctx context.Context, object any) error {
	claim := object.(*core.PersistentVolumeClaim)
	node := claim.Annotations[nodeAnnotation]
	if claim.Spec.VolumeName != "" || claim.Annotations[provisionerAnnotation] != provisioner || node == "" {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(s.directory, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("failed to make the directory of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	filesystem := core.PersistentVolumeFilesystem
	_, err := s.client.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{madeByAnnotation: provisioner}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    &filesystem,
			StorageClassName:              *claim.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{
					{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node}},
				}}},
			}},
		},
	}, meta.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("failed to create the volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// remove deletes a volume that was made here, with its data, once its claim is gone.
func (s storage) remove(ctx context.Context, object any) error {
	volume := object.(*core.PersistentVolume)
	if volume.Annotations[madeByAnnotation] != provisioner || volume.Status.Phase != core.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(s.directory, volume.Name)); err != nil {
		return fmt.Errorf("failed to delete the directory of volume %s: %w", volume.Name, err)
	}
	err := s.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("failed to delete volume %s: %w", volume.Name, err)
	}
	return nil
}
