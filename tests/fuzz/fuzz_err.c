/* fuzz_err.c: texts of any length and content in an error; the message stays one bounded string. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = {0};
	char part[256];
	int first = 0;

	while (size) {
		uint8_t what = data[0];
		size_t n = what >> 1 < size - 1 ? what >> 1 : size - 1;

		memcpy(part, data + 1, n);
		part[n] = 0;
		data += n + 1;
		size -= n + 1;
		if (!first || what & 1) {
			first = -EINVAL;
			if (err_set(&e, first, "%s", part) != first)
				abort();
		} else if (err_wrap(&e, "%s", part) != first) {
			abort();
		}
		if (e.code != first || strnlen(e.msg, sizeof(e.msg)) == sizeof(e.msg))
			abort();
	}
	return 0;
}
