/*
 * scripts.h: the shell scripts that images contain. Plain POSIX shell; those of initial RAM file systems
 * run under busybox ash.
 */
#ifndef LODGE_IMAGE_SCRIPTS_H
#define LODGE_IMAGE_SCRIPTS_H

extern const char script_mini_init[]; /* debian:mini: process 1 */
extern const char script_mini_profile[];
extern const char script_udhcpc[]; /* debian:mini: what to do with a DHCP lease */
extern const char script_disk_init[]; /* initramfs of disk images: mount root=, go on there */
extern const char script_stage2[]; /* inside the disk: configure the packages once */

#endif
