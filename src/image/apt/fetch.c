#include "image/apt/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/text.h"

#define TRIES 3

/* One transfer under way. */
struct xfer {
	const struct fetch_item *it;
	CURL *h;
	char *part;
	int fd;
	uint64_t have; /* bytes in the .part file */
	uint64_t start; /* of these, from earlier attempts */
	int tries;
	struct err err;
	char curl_msg[CURL_ERROR_SIZE];
};

struct fetcher {
	const struct fetch_item *v;
	size_t n, next; /* next item that was not started */
	CURLM *multi;
	struct xfer *x;
	unsigned int nx, running;
	uint64_t done, total; /* bytes of finished and present items, bytes of all */
	const struct image_progress *pg;
};

void fetch_items_free(struct fetch_item *v, size_t n)
{
	for (size_t i = 0; v && i < n; i++) {
		free(v[i].url);
		free(v[i].path);
		free(v[i].what);
	}
	free(v);
}

static void hex(const unsigned char *d, char out[SHA256_HEX])
{
	for (int i = 0; i < 32; i++)
		snprintf(out + 2 * i, 3, "%02x", d[i]);
}

void sha256_mem(const void *p, size_t n, char out[SHA256_HEX])
{
	unsigned char d[EVP_MAX_MD_SIZE] = {0};

	EVP_Digest(p, n, d, NULL, EVP_sha256(), NULL);
	hex(d, out);
}

int sha256_file(const char *path, char out[SHA256_HEX], struct err *e)
{
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup(free_ptr) char *b = malloc(MiB);
	unsigned char d[EVP_MAX_MD_SIZE] = {0};
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	ssize_t r = -1;
	int code;

	if (fd < 0 || !b || !c) {
		code = fd < 0 ? -errno : -ENOMEM;
		EVP_MD_CTX_free(c);
		return err_sys(e, code, "read %s", path);
	}
	EVP_DigestInit_ex(c, EVP_sha256(), NULL);
	while ((r = read(fd, b, MiB)) > 0)
		EVP_DigestUpdate(c, b, (size_t)r);
	code = errno;
	EVP_DigestFinal_ex(c, d, NULL);
	EVP_MD_CTX_free(c);
	if (r < 0)
		return err_sys(e, -code, "read %s", path);
	hex(d, out);
	return 0;
}

static size_t on_data(char *p, size_t one, size_t n, void *ctx)
{
	struct xfer *x = ctx;

	n *= one;
	if (x->it->size && n > x->it->size - MIN(x->have, x->it->size)) {
		err_set(&x->err, -EBADMSG, "%s is longer than the %llu bytes that the index names",
			x->it->what, (unsigned long long)x->it->size);
		return 0;
	}
	if (fd_write_all(x->fd, p, n, x->part, &x->err))
		return 0;
	x->have += n;
	return n;
}

static void xfer_end(struct fetcher *f, struct xfer *x)
{
	if (x->h) {
		curl_multi_remove_handle(f->multi, x->h);
		curl_easy_cleanup(x->h);
	}
	if (x->fd >= 0)
		close(x->fd);
	free(x->part);
	*x = (struct xfer){.fd = -1};
}

/* Adds (again) the request that x->it needs. */
static int xfer_request(struct fetcher *f, struct xfer *x, struct err *e)
{
	off_t end = lseek(x->fd, 0, SEEK_END);

	if (end < 0)
		return err_sys(e, -errno, "read %s", x->part);
	/* A .part that is as long as the whole (or longer) was never renamed: start again. */
	if (end && x->it->size && (uint64_t)end >= x->it->size) {
		if (ftruncate(x->fd, 0) || lseek(x->fd, 0, SEEK_SET))
			return err_sys(e, -errno, "write %s", x->part);
		end = 0;
	}
	x->have = x->start = (uint64_t)end;
	if (x->h) {
		curl_multi_remove_handle(f->multi, x->h);
		curl_easy_cleanup(x->h);
	}
	x->h = curl_easy_init();
	if (!x->h)
		return err_set(e, -ENOMEM, "out of memory");
	curl_easy_setopt(x->h, CURLOPT_URL, x->it->url);
	curl_easy_setopt(x->h, CURLOPT_PRIVATE, x);
	curl_easy_setopt(x->h, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(x->h, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(x->h, CURLOPT_ERRORBUFFER, x->curl_msg);
	curl_easy_setopt(x->h, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(x->h, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(x->h, CURLOPT_MAXREDIRS, 8L);
	curl_easy_setopt(x->h, CURLOPT_PROTOCOLS_STR, "http,https,file");
	curl_easy_setopt(x->h, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(x->h, CURLOPT_CONNECTTIMEOUT, 20L);
	curl_easy_setopt(x->h, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(x->h, CURLOPT_LOW_SPEED_TIME, 60L);
	curl_easy_setopt(x->h, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(x->h, CURLOPT_USERAGENT, "lodge");
	if (end)
		curl_easy_setopt(x->h, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)end);
	curl_multi_add_handle(f->multi, x->h);
	return 0;
}

static int xfer_start(struct fetcher *f, struct xfer *x, const struct fetch_item *it, struct err *e)
{
	*x = (struct xfer){.it = it, .fd = -1, .part = text_fmt("%s.part", it->path)};
	if (!x->part)
		return err_set(e, -ENOMEM, "out of memory");
	x->fd = open(x->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (x->fd < 0)
		return err_sys(e, -errno, "create %s", x->part);
	f->running++;
	return xfer_request(f, x, e);
}

/* What libcurl's code means to the person who waits. */
static int explain(const struct xfer *x, CURLcode c, struct err *e)
{
	const char *why = x->curl_msg[0] ? x->curl_msg : curl_easy_strerror(c);
	long code = 0;

	if (x->err.code) {
		if (e)
			*e = x->err;
		return x->err.code;
	}
	curl_easy_getinfo(x->h, CURLINFO_RESPONSE_CODE, &code);
	switch (c) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
		return err_set(e, -ENETUNREACH,
			"fetch %s: %s (no network, or the mirror is down: check the connection or "
			"name "
			"another mirror with --mirror URL; what was fetched is kept)",
			x->it->url, why);
	case CURLE_HTTP_RETURNED_ERROR:
	case CURLE_FILE_COULDNT_READ_FILE:
		return err_set(e, code >= 500 ? -EIO : -ENOENT,
			"fetch %s: %s (is this a Debian mirror? name another with --mirror URL)",
			x->it->url, why);
	default:
		return err_set(e, -EIO, "fetch %s: %s (pull again: what was fetched is kept)",
			x->it->url, why);
	}
}

static bool worth_another_try(const struct xfer *x, CURLcode c)
{
	long code = 0;

	curl_easy_getinfo(x->h, CURLINFO_RESPONSE_CODE, &code);
	if (x->err.code || x->tries + 1 >= TRIES)
		return false;
	if (c == CURLE_HTTP_RETURNED_ERROR)
		return code >= 500 || code == 416 || code == 429;
	return c != CURLE_FILE_COULDNT_READ_FILE && c != CURLE_COULDNT_RESOLVE_HOST &&
	       c != CURLE_UNSUPPORTED_PROTOCOL && c != CURLE_URL_MALFORMAT;
}

/* The whole file is in .part: check and publish it. */
static int xfer_finish(struct xfer *x, struct err *e)
{
	char got[SHA256_HEX];
	int r;

	if (x->it->size && x->have != x->it->size)
		r = err_set(e, -EBADMSG, "%s has %llu bytes, the index names %llu", x->it->what,
			(unsigned long long)x->have, (unsigned long long)x->it->size);
	else if (x->it->sha256[0]) {
		r = sha256_file(x->part, got, e);
		if (!r && strcmp(got, x->it->sha256))
			r = err_set(e, -EBADMSG,
				"%s is corrupt: its SHA-256 is %.12s..., the index names "
				"%.12s...",
				x->it->what, got, x->it->sha256);
	} else {
		r = 0;
	}
	if (r == -EBADMSG && e) {
		size_t n = strlen(e->msg);

		snprintf(e->msg + n, sizeof(e->msg) - n,
			" (the bad file was deleted: pull again, or name another mirror with "
			"--mirror URL)");
	}
	if (r) {
		unlink(x->part);
		return r;
	}
	if (rename(x->part, x->it->path))
		return err_sys(e, -errno, "rename %s", x->part);
	return 0;
}

static int on_done(struct fetcher *f, struct xfer *x, CURLcode c, struct err *e)
{
	long code = 0;
	int r;

	if (c != CURLE_OK && worth_another_try(x, c)) {
		curl_easy_getinfo(x->h, CURLINFO_RESPONSE_CODE, &code);
		/* The server knows no ranges (libcurl says so itself), or not this one: from the start. */
		if ((code == 416 || c == CURLE_RANGE_ERROR || c == CURLE_BAD_DOWNLOAD_RESUME) &&
			ftruncate(x->fd, 0))
			return err_sys(e, -errno, "write %s", x->part);
		x->tries++;
		return xfer_request(f, x, e);
	}
	if (c != CURLE_OK) {
		r = explain(x, c, e);
		if (r == -EBADMSG)
			unlink(x->part);
		return r;
	}
	r = xfer_finish(x, e);
	if (r)
		return r;
	f->done += x->have;
	xfer_end(f, x);
	f->running--;
	return 0;
}

/* A .part that is whole was left by somebody who was stopped between the last byte and the rename. */
static bool finish_whole_part(const struct fetch_item *it)
{
	struct xfer x = {
		.it = it, .fd = -1, .part = text_fmt("%s.part", it->path), .have = it->size};
	struct stat st;
	bool done = x.part && it->size && it->sha256[0] && !stat(x.part, &st) &&
		    (uint64_t)st.st_size == it->size && !xfer_finish(&x, NULL);

	free(x.part);
	return done;
}

static int start_more(struct fetcher *f, struct err *e)
{
	int r = 0;

	for (unsigned int i = 0; !r && i < f->nx; i++) {
		while (f->next < f->n && !f->x[i].it && !r) {
			const struct fetch_item *it = &f->v[f->next++];
			struct stat st;

			if (!stat(it->path, &st) || finish_whole_part(it)) {
				f->done += it->size;
				continue;
			}
			r = xfer_start(f, &f->x[i], it, e);
		}
	}
	return r;
}

static int pump(struct fetcher *f, struct err *e)
{
	uint64_t now = f->done;
	CURLMsg *msg;
	int left, r = 0;

	curl_multi_perform(f->multi, &left);
	while (!r && (msg = curl_multi_info_read(f->multi, &left))) {
		char *priv = NULL;
		CURLcode c = msg->data.result;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &priv);
		r = on_done(f, (struct xfer *)(void *)priv, c, e);
	}
	for (unsigned int i = 0; i < f->nx; i++)
		now += f->x[i].it ? f->x[i].have : 0;
	if (!r && progress(f->pg, "fetch", MIN(now, f->total ?: now), f->total, 1))
		r = err_set(e, -ECANCELED, "interrupted (pull again: what was fetched is kept)");
	return r;
}

int fetch_all(const struct fetch_item *v, size_t n, unsigned int parallel,
	const struct image_progress *pg, struct err *e)
{
	struct fetcher f = {.v = v, .n = n, .pg = pg, .nx = MAX(parallel, 1u)};
	int r = 0;

	for (size_t i = 0; i < n; i++)
		f.total += v[i].size;
	f.x = calloc(f.nx, sizeof(*f.x));
	f.multi = curl_multi_init();
	if (!f.x || !f.multi)
		r = err_set(e, -ENOMEM, "out of memory");
	for (unsigned int i = 0; f.x && i < f.nx; i++)
		f.x[i].fd = -1;
	if (!r)
		curl_multi_setopt(f.multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)f.nx);
	while (!r) {
		r = start_more(&f, e);
		if (r || !f.running)
			break;
		r = pump(&f, e);
		if (!r)
			curl_multi_poll(f.multi, NULL, 0, 100, NULL);
	}
	for (unsigned int i = 0; f.x && i < f.nx; i++)
		xfer_end(&f, &f.x[i]);
	curl_multi_cleanup(f.multi);
	free(f.x);
	return r;
}
