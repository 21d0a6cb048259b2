/*
 * both.h: the parts of the tests of both engines. Each test prints "ok NAME", or ends the guest by fail().
 */
#ifndef GUEST_BOTH_H
#define GUEST_BOTH_H

#include "guest/common/alias.h"
#include "guest/common/isa.h"

void done(const char *what);
/* Sleeps until it has come more than n times. */
void wait_past(enum isa_event e, uint64_t n, const char *what);

/* By PCI slot. */
void test_net(unsigned dev);
void test_disk(unsigned dev);
void test_console(unsigned dev);
void test_rng(unsigned dev);
void test_balloon(unsigned dev);
/* Works, and is not stopped. */
void leave_running(unsigned dev);

#endif
