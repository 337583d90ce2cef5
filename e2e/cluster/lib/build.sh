# Compiles what runs: Kubernetes, CoreDNS, pause, and the images of the latter two. Sourced by `cluster`.

build() {
  [ ! -d "$programs" ] || return 0
  go_works || fetch_go
  say "compiling Kubernetes $kubernetes_version; this takes minutes, once"
  scratch
  local new=$scratch/programs
  mkdir -p "$new/bin" "$new/images"
  # Static, so that CoreDNS needs nothing else in its image. Niced: it takes every core for minutes.
  compile() { # DIRECTORY LINKER-FLAGS
    (cd "$here/$1" && CGO_ENABLED=0 nice -n 10 go build -trimpath -buildvcs=false -ldflags "-s -w $2" -o "$new/bin/$1" .)
  }
  # Without a version the API server calls itself v0.0.0, and kubeadm and clients refuse it.
  local v=k8s.io/component-base/version number=${kubernetes_version#v}
  local major=${number%%.*} minor=${number#*.}
  compile kubernetes "-X $v.gitVersion=$kubernetes_version -X $v.gitMajor=$major -X $v.gitMinor=${minor%%.*}"
  compile coredns ""
  local component
  for component in etcd kubeadm kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet storage; do
    ln -s kubernetes "$new/bin/$component"
  done
  gcc -static -Os -Wall -Wextra -Werror -o "$new/bin/pause" "$here/pause.c"
  one_file_image "$new" pause
  one_file_image "$new" coredns
  mv "$new" "$programs"
}

# PROGRAMS NAME: an image localhost/NAME:1 of one program and nothing else.
one_file_image() {
  local context=$scratch/$2
  mkdir "$context"
  cp "$1/bin/$2" "$context"
  printf 'FROM scratch\nCOPY %s /%s\nENTRYPOINT ["/%s"]\n' "$2" "$2" "$2" >"$context/Dockerfile"
  archive "$context" "localhost/$2:1" "$1/images/$2.tar"
}
