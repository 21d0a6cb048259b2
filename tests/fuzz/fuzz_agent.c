/* fuzz_agent.c: frames and fields of the agent's protocol, with whatever a guest may send. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_fields(struct agent_in *in)
{
	size_t n;

	/* As many kinds of fields as the type's number says. */
	for (unsigned i = 0; i < 8 && !in->bad; i++) {
		switch (((unsigned)in->type >> (i % 4)) & 3) {
		case 0:
			agent_get_u32(in);
			break;
		case 1:
			agent_get_u64(in);
			break;
		case 2:
			free(agent_get_text(in));
			break;
		default: {
			const uint8_t *p = agent_get_bytes(in, &n);

			if (p && n && p + n > in->buf + in->len)
				abort();
		}
		}
	}
	if (agent_complete(in) && in->left)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_in *in = calloc(1, sizeof(*in));
	size_t at = 0, step = size ? data[0] + 1u : 1;
	int r = 0;

	while (in && r >= 0 && (at < size || r)) {
		size_t room, n = size - at < step ? size - at : step;
		void *to = agent_room(in, &room);

		n = n < room ? n : room;
		memcpy(to, data + at, n);
		agent_got(in, n);
		at += n;
		r = agent_next(in);
		if (r > 0)
			take_fields(in);
		else if (!n)
			break;
	}
	free(in);
	return 0;
}
