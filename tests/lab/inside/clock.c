/* A wall clock that is wrong, for whoever loads this: cc -shared -fPIC -o clock.so clock.c
 *
 * By an hour behind; or by as many seconds as the file LINKWIRE_TEST_CLOCK has, in 8 bytes of this machine's order, at
 * each moment: who writes there sets the clock of a process that runs.
 *
 * Not libfaketime, which has clock_nanosleep() fail, by which Python sleeps.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t an_hour_behind = -3600;
static const volatile int64_t *offset = &an_hour_behind;

__attribute__((constructor)) static void find_offset(void)
{
	const char *path = getenv("LINKWIRE_TEST_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *page = MAP_FAILED;

	if (file >= 0) {
		page = mmap(0, sizeof(*offset), PROT_READ, MAP_SHARED, file, 0);
		close(file);
	}
	if (page != MAP_FAILED)
		offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
	int failed = syscall(SYS_clock_gettime, clock, at);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		at->tv_sec += *offset;
	return failed;
}

time_t time(time_t *out)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	if (out)
		*out = at.tv_sec;
	return at.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
	struct timespec exact;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &exact);
	at->tv_sec = exact.tv_sec;
	at->tv_usec = exact.tv_nsec / 1000;
	return 0;
}
