/*
 * fetch.h: files from a mirror, several at once, resumed where an earlier attempt stopped.
 *
 * A file is written to PATH.part and renamed to PATH when it is whole and its SHA-256 is the wanted
 * one; so whatever has its final name is good. A .part that is found is continued by a Range
 * request (RFC 9110 section 14). A wrong digest deletes the file.
 *
 * Transport is libcurl: http, https, file. Proxies by the usual environment variables.
 */
#ifndef LODGE_IMAGE_APT_FETCH_H
#define LODGE_IMAGE_APT_FETCH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/progress.h"

#define SHA256_HEX 65 /* 64 digits and the end */

struct fetch_item {
	char *url;
	char *path; /* where it ends up; its directory exists */
	char *what; /* for people: "package hello 2.10-3" */
	char sha256[SHA256_HEX]; /* empty: not checked here (the caller verifies a signature) */
	uint64_t size; /* expected bytes, or 0 when unknown; never more than this is written */
};

void fetch_items_free(struct fetch_item *v, size_t n);

/*
 * Fetches what is not there yet, `parallel` at a time. Each failed transfer is tried twice more.
 * On an error what was fetched stays, for the next attempt. Errors: -ENETUNREACH (no network, no
 * such host), -ENOENT (the mirror does not have it), -EBADMSG (wrong digest or length), -ENOSPC,
 * -ECANCELED (the progress callback said so), -EIO.
 */
int fetch_all(const struct fetch_item *v, size_t n, unsigned int parallel,
	const struct image_progress *pg, struct err *e);

/* SHA-256 of a file as lower-case hex. */
int sha256_file(const char *path, char out[SHA256_HEX], struct err *e);
void sha256_mem(const void *p, size_t n, char out[SHA256_HEX]);

#endif
