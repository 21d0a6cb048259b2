/*
 * aptsrc.h: which Debian mirror the host uses, read from its own apt configuration.
 *
 * No mirror's name is written into Lodge: where the host's owner decided to get Debian from, we get
 * it from too. Read are sources.list (one-line format) and sources.list.d/ *.list and *.sources
 * (deb822 format). Only entries that can be Debian's main archive count: type deb, component main,
 * http, https or file, a Debian code name or suite (bookworm, trixie-updates, stable, ...).
 * Security archives are kept apart.
 *
 * Source: sources.list(5).
 */
#ifndef LODGE_IMAGE_APT_APTSRC_H
#define LODGE_IMAGE_APT_APTSRC_H

#include "base/err.h"
#include "image/text.h"

struct apt_mirror {
	char *uri; /* without a final slash */
	char *security; /* the security archive's URI, or NULL when the host has none */
	char *keyring; /* Signed-By file of the entry, or NULL */
};

void apt_mirror_free(struct apt_mirror *m); /* fit for cleanup() */

/*
 * Reads the text of one file; `one_line` selects the format. Fills what is still NULL in m.
 * Entries that are disabled, not Debian's or malformed are stepped over, as apt warns and goes on.
 */
void apt_mirror_parse(struct apt_mirror *m, const char *text, size_t n, bool one_line);

/* Reads the configuration under `etc_apt` ("/etc/apt"). -ENOENT with the remedy when it has none. */
int apt_mirror_find(struct apt_mirror *m, const char *etc_apt, struct err *e);

#endif
