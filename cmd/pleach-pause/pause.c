/*
 * pleach-pause is process 1 of every pod sandbox. It holds the pod's namespaces open, reaps orphans
 * when the pod shares its process namespace, and ends at SIGTERM or SIGINT. It is C because a Go
 * program would cost each pod 1.5 MB of memory and five threads for sleeping.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int sig)
{
	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void leave(int sig)
{
	(void)sig;
	_exit(0);
}

int main(void)
{
	/* Process 1 has no default actions: a signal without a handler is ignored. */
	struct sigaction child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
	struct sigaction end = {.sa_handler = leave};

	sigaction(SIGCHLD, &child, NULL);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGINT, &end, NULL);
	for (;;)
		pause();
}
