/* A wall clock that is an hour behind, for whoever loads this: cc -shared -fPIC -o clock.so clock.c
 *
 * Not libfaketime, which has clock_nanosleep() fail, by which Python sleeps.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BEHIND 3600

int clock_gettime(clockid_t clock, struct timespec *at)
{
	int failed = syscall(SYS_clock_gettime, clock, at);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		at->tv_sec -= BEHIND;
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
