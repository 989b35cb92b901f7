#!/usr/bin/env bash
# A labelling job under Slurm: a Ray cluster over the job's nodes, the driver on the first of them (docs/deploy.md).
#
#   sbatch --nodes 4 jobs/slurm.sh job.yaml        with `ray: {address: auto}` in job.yaml
#
# Slurm warns two minutes before the time limit and before preemption: the driver is asked to stop, what is committed stays, and
# the job goes back into the queue to go on from there. Otherwise exit codes are those of `expert-labels label`.
#SBATCH --job-name=expert-labels
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=expert-labels-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail

job_file=${1:?expected a job file: sbatch jobs/slurm.sh job.yaml}
port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}   # two jobs may share a node
most_starts=${MOST_STARTS:-50}

# Who reaches Ray's port runs code as this user, and a Slurm network has many users: Ray asks for a token of this job's own.
tokens=${TOKENS:-$HOME/.expert-labels}                # a folder that all nodes see
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$tokens/ray-token-$SLURM_JOB_ID
unset RAY_AUTH_TOKEN
(
  umask 077
  mkdir -p "$tokens"
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"
)

steps=()
driver=
stopping=
# shellcheck disable=SC2329  # called by the traps below
finish() {
  trap '' TERM INT
  for step in ${steps[@]+"${steps[@]}"}; do kill -TERM "$step" 2>/dev/null || true; done
  wait ${steps[@]+"${steps[@]}"} 2>/dev/null || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
# shellcheck disable=SC2329
stop() {
  stopping=yes
  if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; fi
}
trap finish EXIT
trap stop TERM INT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes[0]}
address=$first:$port
cpus=${SLURM_CPUS_PER_TASK:-1}

srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$first" \
  ray start --head --block --node-ip-address="$first" --port="$port" --num-cpus="$cpus" &
steps+=($!)
for _ in $(seq 60); do
  if ray status --address "$address" > /dev/null 2>&1; then break; fi
  if [ -n "$stopping" ]; then break; fi
  sleep "${PAUSE:-2}"
done
# One step for each node: a node that is lost takes its own step along and no other.
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" \
    ray start --block --address="$address" --num-cpus="$cpus" &
  steps+=($!)
done

# The driver does not wait for the nodes: whoever comes later takes part from then on.
export RAY_ADDRESS=$address
code=143
if [ -z "$stopping" ]; then
  expert-labels label "$job_file" &
  driver=$!
  # `wait` returns when a signal comes; the driver is still at work then, and its own end is what counts.
  while true; do
    code=0
    wait "$driver" || code=$?
    if ! kill -0 "$driver" 2>/dev/null; then break; fi
  done
fi

# 130, 143: asked to stop. 3: Ray gave up, as where the first node was lost. All others are the job's own end.
case $code in
  130 | 143 | 3) ;;
  *) exit "$code" ;;
esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_starts" ]; then
  echo "ended with $code after $most_starts starts: not queued again (MOST_STARTS)" >&2
  exit "$code"
fi
echo "ended with $code: what is committed stays, job $SLURM_JOB_ID goes back into the queue" >&2
scontrol requeue "$SLURM_JOB_ID"
