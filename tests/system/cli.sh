#!/bin/bash
# time-limit: 30
# The contract of the command line: exit codes, one line for an error, nothing made by asking.
set -u
lodge=$LODGE_BUILD/src/cli/lodge
export XDG_CACHE_HOME=$LODGE_TMP/cache XDG_DATA_HOME=$LODGE_TMP/data XDG_RUNTIME_DIR=$LODGE_TMP/run

# expect CODE WHAT ARGUMENT...: the exit code, and for an error one line on stderr and none on stdout
expect()
{
	local code=$1 what=$2 got lines
	shift 2
	"$lodge" "$@" >out 2>err
	got=$?
	lines=$(wc -l <err)
	if [ $got != "$code" ]; then
		echo "FAIL: $what: exit $got, wanted $code: $(cat err)"
	elif [ "$code" != 0 ] && { [ "$lines" != 1 ] || [ -s out ]; }; then
		echo "FAIL: $what: $lines lines on stderr, $(wc -l <out) on stdout"
	elif [ "$code" = 0 ] && [ ! -s out ]; then
		echo "FAIL: $what: said nothing"
	else
		echo "PASS: $what"
	fi
}

expect 0 'help' --help
expect 0 'help of a verb' image pull --help
expect 2 'unknown verb' frobnicate
expect 2 'unknown option' image pull --nosuch
expect 2 'too few arguments' image show
expect 3 'unknown image' image show debian:nope
rm -f out err
if [ -z "$(find . -type f)" ]; then
	echo 'PASS: asking made no file'
else
	echo "FAIL: asking made $(find . -type f | tr '\n' ' ')"
fi
