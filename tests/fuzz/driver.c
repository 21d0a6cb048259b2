/*
 * driver.c: runs a fuzz target without libFuzzer, the same way every time.
 *
 *	fuzz_X [--runs N] [--seed S] [--max-len N] [FILE|FOLDER]...
 *
 * First every seed is run as it is, in the order of their names; then N inputs that are made from the
 * seeds by a small mutator. The same N, S and seeds give the same inputs on every host, so that a
 * failure in CI can be repeated by its number. An input that crashes, trips a sanitizer or takes
 * more than 20 seconds is kept as `crash-<target>` in the current folder and its number is printed;
 * `fuzz_X --runs 0 crash-<target>` runs it again.
 *
 * It is no replacement for libFuzzer, which is guided by coverage (`make fuzz`); it is what a plain
 * gcc build and `make test` can do.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Present when the program is built with a sanitizer, else NULL. */
void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

struct input {
	uint8_t *data;
	size_t size;
};

/* What a signal handler must find: the input that runs now. A test program may have globals. */
static struct {
	const uint8_t *data;
	size_t size;
	unsigned long number;
	char path[256];
} now;

static struct input *inputs;
static size_t input_count;
static size_t max_len = 1 << 16;

static void keep_input(void)
{
	char text[64];
	int fd, n;

	n = snprintf(text, sizeof(text), "input %lu failed; kept as ", now.number);
	fd = open(now.path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || n < 0)
		return;
	if (write(fd, now.data, now.size) < 0 || write(2, text, (size_t)n) < 0 ||
		write(2, now.path, strlen(now.path)) < 0 || write(2, "\n", 1) < 0)
		_exit(1);
	close(fd);
}

static void on_signal(int sig)
{
	keep_input();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void watch_failures(const char *argv0)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};
	const char *name = strrchr(argv0, '/');

	snprintf(now.path, sizeof(now.path), "crash-%s", name ? name + 1 : argv0);
	if (__sanitizer_set_death_callback) {
		__sanitizer_set_death_callback(keep_input);
		signal(SIGALRM, on_signal);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		signal(sigs[i], on_signal);
}

static void die(const char *what, const char *path)
{
	fprintf(stderr, "%s: %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static void load_file(const char *path)
{
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct input in = {0};
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die("cannot open", path);
	in.size = MIN((size_t)st.st_size, max_len);
	in.data = malloc(in.size + 1);
	inputs = realloc(inputs, (input_count + 1) * sizeof(*inputs));
	if (!in.data || !inputs || read(fd, in.data, in.size) != (ssize_t)in.size)
		die("cannot read", path);
	inputs[input_count++] = in;
}

static void load_path(const char *path)
{
	struct dirent **names;
	struct stat st;
	char full[4096];
	int n;

	if (stat(path, &st) < 0)
		die("cannot find", path);
	if (!S_ISDIR(st.st_mode)) {
		load_file(path);
		return;
	}
	n = scandir(path, &names, NULL, alphasort);
	if (n < 0)
		die("cannot read", path);
	for (int i = 0; i < n; i++) {
		snprintf(full, sizeof(full), "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.')
			load_file(full);
		free(names[i]);
	}
	free(names);
}

/* splitmix64: small, and its whole state is the seed. */
static uint64_t rnd(uint64_t *s)
{
	uint64_t z = (*s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static size_t below(uint64_t *s, size_t n)
{
	return n ? (size_t)(rnd(s) % n) : 0;
}

/* Values at which lengths, offsets and counts go wrong. */
static const uint64_t edges[] = {0, 1, 2, 7, 8, 15, 16, 63, 64, 127, 128, 255, 256, 511, 512, 4095,
	4096, 32767, 32768, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000ull,
	0x7fffffffffffffffull, 0x8000000000000000ull, ~0ull, ~0ull - 7, ~0ull - 4095};

static void put_edge(uint64_t *s, uint8_t *buf, size_t size)
{
	size_t width = (size_t)1 << below(s, 4);
	uint64_t v = edges[below(s, ARRAY_SIZE(edges))];
	bool big = rnd(s) & 1;
	size_t at;

	if (size < width)
		return;
	at = below(s, size - width + 1);
	for (size_t i = 0; i < width; i++)
		buf[at + i] = (uint8_t)(v >> (8 * (big ? width - 1 - i : i)));
}

/* Copies a piece of some seed over or into the input. Returns the new size. */
static size_t take_piece(uint64_t *s, uint8_t *buf, size_t size)
{
	const struct input *from = &inputs[below(s, input_count)];
	size_t start = below(s, from->size);
	size_t n = MIN(below(s, from->size - start + 1), (size_t)256);
	size_t at = below(s, size + 1);

	if (rnd(s) & 1) {
		n = MIN(n, max_len - size);
		memmove(buf + at + n, buf + at, size - at);
		size += n;
	} else {
		n = MIN(n, size - at);
	}
	memcpy(buf + at, from->data + start, n);
	return size;
}

static size_t mutate_once(uint64_t *s, uint8_t *buf, size_t size)
{
	size_t at = below(s, size), n;

	switch (rnd(s) % 7) {
	case 0:
		if (size)
			buf[at] ^= (uint8_t)(1u << below(s, 8));
		return size;
	case 1:
		if (size)
			buf[at] = (uint8_t)rnd(s);
		return size;
	case 2:
		put_edge(s, buf, size);
		return size;
	case 3: /* take a piece out */
		n = below(s, MIN(size - at, (size_t)64) + 1);
		memmove(buf + at, buf + at + n, size - at - n);
		return size - n;
	case 4: /* put random bytes in */
		n = MIN(below(s, 16), max_len - size);
		memmove(buf + at + n, buf + at, size - at);
		for (size_t i = 0; i < n; i++)
			buf[at + i] = (uint8_t)rnd(s);
		return size + n;
	case 5: /* a short read */
		return rnd(s) % 4 ? size : below(s, size + 1);
	default:
		return take_piece(s, buf, size);
	}
}

static void run_one(const uint8_t *data, size_t size)
{
	/* A copy of exactly the size, so that a sanitizer sees the first byte behind the end. */
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		die("no memory", "input");
	memcpy(copy, data, size);
	now.data = copy;
	now.size = size;
	alarm(20);
	LLVMFuzzerTestOneInput(copy, size);
	alarm(0);
	now.number++;
	free(copy);
}

static void run_all(unsigned long runs, uint64_t seed)
{
	uint8_t *buf = malloc(max_len + 1);
	size_t size;

	if (!buf)
		die("no memory", "buffer");
	for (size_t i = 0; i < input_count; i++)
		run_one(inputs[i].data, inputs[i].size);
	for (unsigned long r = 0; r < runs; r++) {
		const struct input *from = &inputs[below(&seed, input_count)];

		size = from->size;
		memcpy(buf, from->data, size);
		for (size_t n = 1 + below(&seed, 6); n; n--)
			size = mutate_once(&seed, buf, size);
		run_one(buf, size);
	}
	free(buf);
}

int main(int argc, char **argv)
{
	unsigned long runs = 2000;
	uint64_t seed = 1;
	int i = 1;

	for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
		if (!strcmp(argv[i], "--runs"))
			runs = strtoul(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--max-len"))
			max_len = strtoul(argv[i + 1], NULL, 0);
		else
			break;
	}
	for (; i < argc; i++) {
		if (argv[i][0] == '-') {
			fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]);
			return 2;
		}
		load_path(argv[i]);
	}
	if (!input_count) {
		fprintf(stderr, "%s: no seeds: name a folder that holds at least one file\n",
			argv[0]);
		return 2;
	}
	watch_failures(argv[0]);
	run_all(runs, seed);
	printf("%lu inputs from %zu seeds, seed %" PRIu64 ": no failure\n", now.number, input_count,
		seed);
	for (size_t k = 0; k < input_count; k++)
		free(inputs[k].data);
	free(inputs);
	return 0;
}
