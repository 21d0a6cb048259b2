/* alias.h: what tests/tools/alias-machine has put into the second word of two pages, 16 MiB up, that are one. */
#ifndef GUEST_ALIAS_H
#define GUEST_ALIAS_H

#define ALIAS_MAGIC 0x6c6f646765616c69

#endif
