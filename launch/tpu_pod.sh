#!/bin/bash
# One run on every worker of a Cloud TPU slice (JAX finds the workers by itself).
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/cct.py:ferplus --config.data.dir=FOLDER --workdir=DIR
#
# NAME is a running TPU VM or slice with this project and its environment (`pip install -e '.[tpu]'`)
# in FERJAX_DIR (default ~/ferjax) of every worker. FOLDER and DIR must be shared by all workers: a
# mounted bucket or file store. Exit code 75: preempted and saved; once the slice is back, run the
# same command again.

set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,/^$/p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
command="cd ${FERJAX_DIR:-~/ferjax} && exec python -m ferjax.main --distributed $(printf '%q ' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
