#!/usr/bin/env bash
# The whole of vt_fairseq on MiniWorld, on a CPU: installs, makes the videos, trains, captions,
# answers, classifies, retrieves, and prints one table. Everything it makes is in quickstart/; a
# second run reuses what is there (delete the folder to start afresh). DeepSpeed's engine trains;
# ENGINE=fairseq takes fairseq's own trainer.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$(date +%s)
. examples/environment.sh
install_project ""
python examples/quickstart.py "$began"
