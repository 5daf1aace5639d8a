#!/usr/bin/env bash
# The whole of vt_fairseq on MiniWorld, on a CPU: installs, makes the videos, trains, captions,
# answers, classifies, retrieves, and prints one table. Everything it makes is in quickstart/; a
# second run reuses what is there (delete the folder to start afresh). DEEPSPEED=1 trains through
# DeepSpeed's engine.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$(date +%s)
. examples/environment.sh
if [ "${DEEPSPEED:-}" = 1 ]; then install_project "[deepspeed]"; else install_project ""; fi
python examples/quickstart.py "$began"
