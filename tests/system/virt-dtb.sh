#!/bin/bash
# time-limit: 60
# The device tree of the `virt` board: dtc finds nothing to warn of, for every shape and with and without firmware.
set -u
tool=$LODGE_BUILD/tests/tools/virt-dtb
isa=rv64imafdc_zicbom_zicboz_zicntr_zicsr_zifencei_zihpm_zba_zbb_zbs_smaia_ssaia_sstc_svadu

if ! command -v dtc >/dev/null; then
	echo "SKIP: dtc is not installed"
	exit 0
fi
for mode in builtin firmware; do
	for shape in "1 1 4M" "4 2 1G" "5 3 6M" "128 16 64G"; do
		# shellcheck disable=SC2086
		if ! "$tool" $shape $isa $mode "console=ttyS0" >tree.dtb; then
			echo "FAIL: $shape $mode: no tree"
		elif ! dtc -I dtb -O dts -o tree.dts tree.dtb 2>warnings || [ -s warnings ]; then
			echo "FAIL: $shape $mode: $(head -n 1 warnings)"
		else
			echo "PASS: dtc accepts $shape $mode"
		fi
	done
done
