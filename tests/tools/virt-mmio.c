/*
 * virt-mmio.c: the `virt` board as QEMU's qtest sees one: no CPU runs, loads and stores come from standard input.
 *
 *	writeb|writew|writel|writeq ADDR VALUE		-> OK
 *	readb|readw|readl|readq ADDR			-> OK VALUE
 *
 * An access that nobody takes answers FAIL. So one script drives this and `qemu-system-riscv64 -S -qtest stdio`.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/machine/stub_machine.h"
#include "base/util.h"
#include "machine/board.h"

static void on_event(void *ctx, int event, uint64_t code)
{
}

static unsigned width_of(char c)
{
	return c == 'b' ? 1 : c == 'w' ? 2 : c == 'l' ? 4 : 8;
}

static void serve(struct board *b)
{
	char line[256], op[16];

	while (fgets(line, sizeof(line), stdin)) {
		char at[32] = "", what[32] = "";
		int n = sscanf(line, "%15s %31s %31s", op, at, what);
		uint64_t addr = strtoull(at, NULL, 0), val = strtoull(what, NULL, 0);
		bool write = n == 3 && !strncmp(op, "write", 5) && strlen(op) == 6;
		bool read = n == 2 && !strncmp(op, "read", 4) && strlen(op) == 5;

		if ((!read && !write) || bus_access(b->bus, BUS_MMIO, addr,
						 width_of(op[strlen(op) - 1]), write, &val))
			puts("FAIL");
		else if (write)
			puts("OK");
		else
			printf("OK 0x%016" PRIx64 "\n", val);
		fflush(stdout);
	}
}

int main(void)
{
	struct board_opts o = {.engine = &stub_engine,
		.vcpus = 4,
		.memory = 128 * MiB,
		.nodes = 1,
		.seed = 1,
		.firmware = "/proc/self/exe", /* opened, never loaded */
		.system_event = on_event};
	struct err e = {0};
	struct board *b;

	if (board_create(&b, "virt", &o, &e)) {
		fprintf(stderr, "virt-mmio: %s\n", err_msg(&e));
		return 1;
	}
	serve(b);
	board_destroy(b);
	return 0;
}
