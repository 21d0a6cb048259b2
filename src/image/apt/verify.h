/*
 * verify.h: trust. A signed InRelease file names the digests of the indexes, an index names the
 * digests of the packages; the signature is checked by gpgv with the keys that apt trusts.
 */
#ifndef LODGE_IMAGE_APT_VERIFY_H
#define LODGE_IMAGE_APT_VERIFY_H

#include "image/text.h"

struct keyrings {
	const char *signed_by; /* the file that the apt entry names, or NULL */
	const char *share; /* "/usr/share/keyrings" */
	const char *trusted; /* "/etc/apt/trusted.gpg.d" */
};

/*
 * Verifies the clear-signed file at `path` and returns in `out` exactly the text that was signed.
 * One good signature by a trusted key and no bad one is what apt asks for too. `work` is a
 * directory for intermediate files. -EKEYREJECTED when it is not trusted, -ENOENT without gpgv or
 * keys.
 */
int verify_inrelease(const char *path, const struct keyrings *keys, const char *work,
	struct buf *out, struct err *e);

/* Finds an entry of the SHA256 list of a Release file: digest (64 hex digits) and size. */
int release_find(const struct buf *release, const char *name, char sha256[65],
	unsigned long long *size, struct err *e);

#endif
