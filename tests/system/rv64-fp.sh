#!/bin/bash
# time-limit: 60
# Floating point, every instruction of F and D in every rounding mode: fp_soft and QEMU give the same results and flags.
set -u
guest=$LODGE_BUILD/guest/fp.elf
lines=$LODGE_BUILD/tests/unit/cpu/fp_lines

if [ ! -e "$guest" ]; then
	echo "SKIP: riscv64-linux-gnu-gcc is not installed"
	exit 0
fi
if ! command -v qemu-system-riscv64 >/dev/null; then
	echo "SKIP: qemu-system-riscv64 is not installed"
	exit 0
fi
"$lines" >want || { echo "FAIL: fp_lines"; exit 1; }
timeout 50 qemu-system-riscv64 -M virt -bios none -display none -monitor none -serial file:got.raw -kernel "$guest" </dev/null
# What follows END is the guest's verdict.
tr -d '\r' <got.raw | sed '/^END$/q' >got
if diff want got >differ; then
	echo "PASS: $(($(wc -l <want) - 1)) combinations of instruction and rounding mode, as QEMU has them"
else
	echo "FAIL: instruction, mode, hash: $(grep -c '^<' differ) differ, the first: $(sed -n 2p differ)"
fi
