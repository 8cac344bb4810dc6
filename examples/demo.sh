#!/bin/sh
# The main job end to end: estimate, measure, train within a budget, report. `make demo` sets BIN.
set -eu
BIN=${BIN:-.venv/bin}
export HF_HUB_OFFLINE=1

echo '== What does a training step of GPT-2 cost, on two GPUs that are not here? (estimated)'
"$BIN/budjoule" profile 'hf:GPT2LMHeadModel' --input 'input_ids=8x1024:int64<50257,labels=8x1024:int64<50257' \
    --mode training --precision bf16-mixed --device a100-pcie-40gb,a10-pcie-24gb

echo
echo '== What does a command cost on this machine? (measured where there is a counter, else estimated from load)'
"$BIN/budjoule" measure -- "$BIN/python" -c 'print(sum(i * i for i in range(3_000_000)))'

echo
echo '== Handwritten digits on 20 devices, each within its own joule budget (simulated, real training)'
"$BIN/budjoule" train examples/digits.toml -o runs/digits --force
"$BIN/budjoule" report runs/digits
"$BIN/budjoule" report runs/digits --format html
