/*
 * fuzz_state.c: the state stream is hostile input. Whatever loads must save to a stream that loads
 * again to the same object; whatever does not must leave the object as it was.
 *
 * The digest at the end of the input is made right first, so that what is behind it is reached.
 */
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "../unit/base/state_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sample s = {.u8 = 1}, zero = s, again = {0};
	struct state_obj obj = {"s0", &sample_state, &s}, obj2 = {"s0", &sample_state, &again};
	uint8_t *in, *out = NULL;
	char where[100];
	struct err e = {0};
	size_t len;

	if (size < 40)
		return 0;
	in = malloc(size);
	must(in != NULL);
	memcpy(in, data, size);
	EVP_Digest(in, size - 32, in + size - 32, NULL, EVP_sha256(), NULL);
	if (state_load(&obj, 1, in, size, &e)) {
		must(e.msg[0] != 0);
		must(s.loads || !memcmp(&s, &zero, sizeof(s)));
	} else {
		must(!state_save(&obj, 1, &out, &len, NULL));
		must(!state_load(&obj2, 1, out, len, NULL));
		must(!state_diff(&sample_state, &s, &again, where, sizeof(where)));
	}
	state_free(&sample_state, &s);
	state_free(&sample_state, &again);
	free(out);
	free(in);
	return 0;
}
