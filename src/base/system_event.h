/*
 * system_event.h: what a guest can do to its whole machine. Both CPUs (cpu/exit.h) and devices (device/device.h) say it,
 * and neither layer may include the other.
 */
#ifndef LODGE_BASE_SYSTEM_EVENT_H
#define LODGE_BASE_SYSTEM_EVENT_H

enum cpu_system_event {
	CPU_SYSTEM_SHUTDOWN,
	CPU_SYSTEM_REBOOT,
	CPU_SYSTEM_CRASH, /* the guest says that it failed (SBI SRST reason "system failure", triple fault) */
	CPU_SYSTEM_SUSPEND,
};

#endif
