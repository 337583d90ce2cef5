#!/usr/bin/env bash
# Installs what eventtrigger's delivery is compared with into target/peers, where the benchmark looks for it: two programs
# for Node.js with npm, and one of Rust that is compiled apart from the workspace.
set -euo pipefail
cd "$(dirname "$0")/../.."

for peer in graphile-worker pg-boss; do
  folder=target/peers/$peer
  mkdir -p "$folder"
  cp -r benches/peers/"$peer"/. "$folder"
  # Again only when the versions have changed: npm takes its time even when there is nothing to do.
  cmp -s "$folder/package.json" "$folder/node_modules/.installed" && continue
  npm install --prefix "$folder" --no-audit --no-fund --loglevel=error
  cp "$folder/package.json" "$folder/node_modules/.installed"
done
cargo build --release --manifest-path benches/peers/awa/Cargo.toml --target-dir target/peers/awa
