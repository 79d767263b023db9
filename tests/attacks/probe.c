/* SPDX-License-Identifier: BSD-2-Clause
 *
 * probe FOLDER PID: tries to reach what is not its business, one way after the other, and prints one line for each:
 * the way, a tab, and `got` or the name of the error. FOLDER has victims: a file, a folder, and sockets; PID is another process.
 *
 * A way that succeeds does no harm to the machine: what would reboot it, say, is asked for in a form that only needs the right to do so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Those that headers of some Linux do not have; the same number everywhere. */
enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, CLONE3 = 435, PIDFD_OPEN = 434, PIDFD_GETFD = 438,
	PROCESS_MADVISE = 440, MOUNT_SETATTR = 442, QUOTACTL_FD = 443, PROCESS_MRELEASE = 448, FCHMODAT2 = 452,
	LSM_SET_SELF_ATTR = 460, SETXATTRAT = 463, OPEN_TREE_ATTR = 467, FILE_SETATTR = 469 };
enum { PIDFD_SEND_SIGNAL = 424, IO_URING_SETUP = 425 };

/* linux/fs.h, which can't be included beside sys/mount.h. */
#define SET_FLAGS _IOW('f', 2, long)
#define GET_FLAGS _IOR('f', 1, long)

static char file[4096], folder[4096], new_name[4096], unix_path[4096], datagrams[4096], sequences[4096];
static pid_t victim;

#define call(...) ((int)syscall(__VA_ARGS__))

/* The file, open for reading: what a process that may read everything has. */
static int reading(void)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
}

static int opens(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC | O_NOCTTY, 0600);
}

static char bytes[64];

/* Files. */
static int open_to_write(void) { return opens(file, O_WRONLY); }
static int open_to_append(void) { return opens(file, O_WRONLY | O_APPEND); }
static int open_new(void) { return opens(new_name, O_WRONLY | O_CREAT | O_EXCL); }
static int open_nameless(void) { return opens(folder, O_RDWR | O_TMPFILE); }
static int open_core_pattern(void) { return opens("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int open_memory(void)
{
	int fd = opens("/dev/mem", O_RDWR);
	if (fd < 0 && errno == ENOENT)
		errno = ENOSYS;
	return fd;
}
static int truncate_file(void) { return truncate(file, 0); }
static int rename_file(void) { return rename(file, new_name) ? -1 : rename(new_name, file); }
static int link_file(void) { return link(file, new_name) ? -1 : unlink(new_name); }
static int symlink_new(void) { return symlink(file, new_name) ? -1 : unlink(new_name); }
static int unlink_file(void) { return unlink(file); }
static int make_folder(void) { return mkdir(new_name, 0700) ? -1 : rmdir(new_name); }
static int remove_folder(void) { return rmdir(folder); }
static int make_fifo(void) { return mknod(new_name, S_IFIFO | 0600, 0) ? -1 : unlink(new_name); }
static int make_device(void) { return mknod(new_name, S_IFBLK | 0600, 0x700) ? -1 : unlink(new_name); }
static int chmod_path(void) { return chmod(file, 0606); }
static int chmod_open(void) { return fchmod(reading(), 0606); }
static int chmod_at_2(void) { return call(FCHMODAT2, AT_FDCWD, file, 0606, AT_SYMLINK_NOFOLLOW); }
static int chown_path(void) { return chown(file, 0, 1); }
static int chown_link(void) { return lchown(file, 0, 1); }
static int chown_open(void) { return fchown(reading(), 0, 1); }
static int chown_at(void) { return fchownat(AT_FDCWD, file, 0, 1, 0); }
static const struct timespec LONG_AGO[2] = { { 1, 0 }, { 1, 0 } };
static int times_path(void) { return utimensat(AT_FDCWD, file, LONG_AGO, 0); }
static int times_open(void) { return futimens(reading(), LONG_AGO); }
static int times_now(void) { return futimens(reading(), NULL); }
static int attribute_path(void) { return call(SYS_setxattr, file, "user.attack", "x", 1, 0); }
static int attribute_link(void) { return call(SYS_lsetxattr, file, "user.attack", "x", 1, 0); }
static int attribute_open(void) { return call(SYS_fsetxattr, reading(), "user.attack", "x", 1, 0); }
static int attribute_at(void)
{
	struct { uint64_t value; uint32_t size, flags; } arguments = { (uintptr_t)"x", 1, 0 };
	return call(SETXATTRAT, AT_FDCWD, file, 0, "user.attack", &arguments, sizeof arguments);
}
static int attribute_gone(void) { return call(SYS_removexattr, file, "user.there"); }
static int inode_flags(void)
{
	long flags = 0;
	int fd = reading();
	if (ioctl(fd, GET_FLAGS, &flags))
		return -1;
	flags ^= 0x40; /* nodump */
	return ioctl(fd, SET_FLAGS, &flags);
}
static int inode_attributes(void)
{
	uint64_t attributes[3] = { 0 };
	return call(FILE_SETATTR, AT_FDCWD, file, attributes, sizeof attributes, 0);
}
static int by_handle(void)
{
	struct { struct file_handle head; unsigned char bytes[128]; } handle = { .head.handle_bytes = 128 };
	int mount;
	if (name_to_handle_at(AT_FDCWD, file, &handle.head, &mount, 0))
		return -1;
	return open_by_handle_at(reading(), &handle.head, O_RDONLY);
}
static int by_handle_to_write(void)
{
	struct { struct file_handle head; unsigned char bytes[128]; } handle = { .head.handle_bytes = 128 };
	int mount;
	if (name_to_handle_at(AT_FDCWD, file, &handle.head, &mount, 0))
		return -1;
	return open_by_handle_at(reading(), &handle.head, O_RDWR);
}
static int mount_tmpfs(void) { return call(SYS_mount, "none", folder, "tmpfs", 0, NULL); }
static int mount_bind(void) { return call(SYS_mount, "/", folder, NULL, 4096, NULL); }
static int unmount(void) { return call(SYS_umount2, folder, 2); }
static int fs_open(void) { return call(FSOPEN, "tmpfs", 0); }
static int tree_open(void) { return call(OPEN_TREE, AT_FDCWD, "/", 1); }
static int tree_open_attr(void) { return call(OPEN_TREE_ATTR, AT_FDCWD, "/", 1, NULL, 0); }
static int mount_move(void) { return call(MOVE_MOUNT, AT_FDCWD, folder, AT_FDCWD, folder, 0); }
static int mount_attributes(void)
{
	uint64_t attributes[4] = { 0 };
	return call(MOUNT_SETATTR, AT_FDCWD, "/", 0, attributes, sizeof attributes);
}
static int change_root(void) { return chroot("/"); }
static int pivot(void) { return call(SYS_pivot_root, ".", "."); }
static int quota(void) { return call(SYS_quotactl, 0x80000100, NULL, 0, NULL); /* Q_SYNC of user quotas is allowed to all */ }
static int quota_open(void) { return call(QUOTACTL_FD, reading(), 0x80000800, 0, NULL); }
static int accounting(void) { return call(SYS_acct, NULL); }
static int swap_on(void) { return call(SYS_swapon, "/nonexistent", 0); }
static int swap_off(void) { return call(SYS_swapoff, "/nonexistent"); }
static int watch_all(void) { return call(SYS_fanotify_init, 0, 0); }
static int watch_all_contents(void) { return call(SYS_fanotify_init, 4, 0); }

/* Processes. */
static int kill_other(void) { return kill(victim, 0); }
static int kill_group(void) { return kill(-getpgid(victim), 0); }
static int kill_all(void) { return kill(-1, 0); }
static int kill_thread(void) { return call(SYS_tgkill, victim, victim, 0); }
static int kill_tid(void) { return call(SYS_tkill, victim, 0); }
static int queue_signal(void)
{
	siginfo_t info = { .si_code = SI_QUEUE };
	return call(SYS_rt_sigqueueinfo, victim, 0, &info);
}
static int queue_signal_thread(void)
{
	siginfo_t info = { .si_code = SI_QUEUE };
	return call(SYS_rt_tgsigqueueinfo, victim, victim, 0, &info);
}
static int pidfd(void) { return call(PIDFD_OPEN, victim, 0); }
static int pidfd_signal(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d", (int)victim);
	return call(PIDFD_SEND_SIGNAL, open(path, O_RDONLY), 0, NULL, 0);
}
static int pidfd_take(void)
{
	int fd = pidfd();
	return fd < 0 ? -1 : call(PIDFD_GETFD, fd, 0, 0);
}
static int limit_other(void)
{
	const struct rlimit limit = { 1000000, 1000000 };
	return prlimit(victim, RLIMIT_CPU, &limit, NULL);
}
static int limit_other_read(void)
{
	struct rlimit limit;
	return prlimit(victim, RLIMIT_CPU, NULL, &limit);
}
static int trace(void)
{
	if (ptrace(PTRACE_SEIZE, victim, NULL, NULL))
		return -1;
	return ptrace(PTRACE_DETACH, victim, NULL, NULL), 0;
}
static int read_memory(void)
{
	const struct iovec here = { bytes, 8 };
	const struct iovec there = { bytes, 8 };
	return (int)process_vm_readv(victim, &here, 1, &there, 1, 0);
}
static int write_memory(void)
{
	const struct iovec here = { bytes, 8 };
	const struct iovec there = { bytes, 8 };
	return (int)process_vm_writev(victim, &here, 1, &there, 1, 0);
}
static int open_proc_mem(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/mem", (int)victim);
	return opens(path, O_RDWR);
}
static int open_proc_environ(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/environ", (int)victim);
	return opens(path, O_RDONLY);
}
static int write_oom(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)victim);
	return opens(path, O_WRONLY);
}
static int advise(void)
{
	const struct iovec there = { bytes, 8 };
	int fd = pidfd();
	return fd < 0 ? -1 : call(PROCESS_MADVISE, fd, &there, 1, 20, 0);
}
static int release(void)
{
	int fd = pidfd();
	return fd < 0 ? -1 : call(PROCESS_MRELEASE, fd, 0);
}
static int affinity(void)
{
	cpu_set_t all;
	if (sched_getaffinity(victim, sizeof all, &all))
		return -1;
	return sched_setaffinity(victim, sizeof all, &all);
}
static int scheduler(void)
{
	const struct sched_param none = { 0 };
	return sched_setscheduler(victim, SCHED_BATCH, &none);
}
static int scheduler_parameters(void)
{
	const struct sched_param none = { 0 };
	return sched_setparam(victim, &none);
}
static int scheduler_attributes(void)
{
	struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t times[3]; } attributes = { 48, 0, 0, 1, 0, { 0 } };
	return call(SYS_sched_setattr, victim, &attributes, 0);
}
static int priority(void) { return setpriority(PRIO_PROCESS, (id_t)victim, 1); }
static int io_priority(void) { return call(SYS_ioprio_set, 1, victim, 2 << 13 | 7); }
static int compare(void) { int same = call(SYS_kcmp, getpid(), victim, 0, 1, 1); return same < 0 ? -1 : 0; }
static int robust_list(void)
{
	void *head;
	size_t length;
	return call(SYS_get_robust_list, victim, &head, &length);
}
static int move_memory(void)
{
	unsigned long nodes = 1;
	return call(SYS_migrate_pages, victim, 8, &nodes, &nodes);
}
static int own_signals(int fd, int request, void *argument)
{
	return fcntl(fd, request, argument);
}
static int owner(void) { return fcntl(reading(), F_SETOWN, victim); }
static int owner_extended(void)
{
	struct f_owner_ex to = { F_OWNER_PID, victim };
	return own_signals(reading(), F_SETOWN_EX, &to);
}
/* The lock of an open file is shared by all who inherited its descriptor. */
static int unlock(int command)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	return fcntl(reading(), command, &all);
}
static int unlock_shared(void) { return unlock(37 /* F_OFD_SETLK */); }
static int unlock_shared_wait(void) { return unlock(38 /* F_OFD_SETLKW */); }
static int unlock_own(void) { return unlock(F_SETLK); }
static int notify(void) { return fcntl(open(folder, O_RDONLY), 1026 /* F_NOTIFY */, 2); }
static int new_session(void)
{
	/* Who leads a group can't. */
	pid_t child = fork();
	if (child == 0)
		_exit(setsid() < 0 ? errno : 0);
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}
static int new_group(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(setpgid(0, 0) < 0 ? errno : 0);
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

/* Sockets. */
static int to_unix(const char *path, int abstract, struct sockaddr_un *to)
{
	memset(to, 0, sizeof *to);
	to->sun_family = AF_UNIX;
	strncpy(to->sun_path + abstract, path, sizeof to->sun_path - 2);
	return (int)(offsetof(struct sockaddr_un, sun_path) + (size_t)abstract + strlen(path));
}
static int connect_unix(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(unix_path, 0, &to);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, length);
}
static int connect_abstract(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(unix_path, 1, &to);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, length);
}
static int send_unix(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(datagrams, 0, &to);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	return fd < 0 ? -1 : (int)sendto(fd, "x", 1, 0, (struct sockaddr *)&to, length);
}
static int send_pair(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(datagrams, 0, &to);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
		return -1;
	return (int)sendto(pair[0], "x", 1, 0, (struct sockaddr *)&to, length);
}
static int send_message_pair(void)
{
	struct sockaddr_un to;
	struct iovec part = { "x", 1 };
	struct msghdr message = { .msg_name = &to, .msg_iov = &part, .msg_iovlen = 1 };
	message.msg_namelen = (socklen_t)to_unix(datagrams, 0, &to);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
		return -1;
	return (int)sendmsg(pair[0], &message, 0);
}
static int connect_pair(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(datagrams, 0, &to);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
		return -1;
	return connect(pair[0], (struct sockaddr *)&to, length);
}
static int make_pair(void)
{
	int pair[2];
	return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
}
static int send_sequence(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(datagrams, 0, &to);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return -1;
	/* It goes to the other end, whatever the address: the victim says whether it came there. */
	if (sendto(pair[0], "x", 1, 0, (struct sockaddr *)&to, length) < 0 || sendmsg(pair[0], &(struct msghdr){ .msg_name = &to, .msg_namelen = length }, 0) < 0)
		return -1;
	return errno = recv(pair[1], bytes, 1, MSG_DONTWAIT) == 1 ? EPERM : EIO, -1;
}
static int connect_sequence(void)
{
	struct sockaddr_un to;
	socklen_t length = (socklen_t)to_unix(sequences, 0, &to);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return -1;
	int result = connect(pair[0], (struct sockaddr *)&to, length);
	/* It is connected, and stays so. */
	if (result < 0 && errno == EISCONN)
		errno = EPERM;
	return result;
}
static int any_socket(int family, int type, int protocol)
{
	int fd = socket(family, type, protocol);
	/* One that this kernel does not have. */
	if (fd < 0 && (errno == EAFNOSUPPORT || errno == EPROTONOSUPPORT || errno == ESOCKTNOSUPPORT))
		errno = ENOSYS;
	return fd;
}
static int tcp(void) { return any_socket(AF_INET, SOCK_STREAM, 0); }
static int udp(void) { return any_socket(AF_INET, SOCK_DGRAM, 0); }
static int tcp_6(void) { return any_socket(AF_INET6, SOCK_STREAM, 0); }
static int netlink_route(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); }
static int netlink_events(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT); }
static int netlink_audit(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT); }
static int netlink_generic(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC); }
static int netlink_sockets(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG); }
static int netlink_filter(void) { return any_socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER); }
static int packets(void) { return any_socket(AF_PACKET, SOCK_RAW, 0); }
static int raw_ip(void) { return any_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int ping(void) { return any_socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP); }
static int mptcp(void) { return any_socket(AF_INET, SOCK_STREAM, 262); }
static int vsock(void) { return any_socket(AF_VSOCK, SOCK_STREAM, 0); }
static int crypto(void) { return any_socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0); }
static int key_socket(void) { return any_socket(15 /* AF_KEY */, SOCK_RAW, 2); }
static int bluetooth(void) { return any_socket(31, SOCK_RAW, 1); }
static int xdp(void) { return any_socket(44, SOCK_RAW, 0); }
static int serve_tcp(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any))
		return -1;
	return listen(fd, 1);
}
static int serve_unbound(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return fd < 0 ? -1 : listen(fd, 1);
}

/* Terminals. Descriptor 0 is the one that the program was started on. */
static int push_input(void) { return ioctl(0, TIOCSTI, "\n"); }
static int push_input_tty(void)
{
	int fd = opens("/dev/tty", O_RDWR);
	return fd < 0 ? -1 : ioctl(fd, TIOCSTI, "\n");
}
static int push_selection(void) { char what = 3; return ioctl(0, TIOCLINUX, &what); }
static int open_tty(void) { return opens("/dev/tty", O_RDWR); }
static int take_tty(void) { return ioctl(0, TIOCSCTTY, 0); }
static int take_tty_new(void)
{
	pid_t child = fork();
	if (child == 0) {
		if (setsid() < 0)
			_exit(errno);
		_exit(ioctl(0, TIOCSCTTY, 0) || ioctl(0, TIOCSTI, "\n") ? errno : 0);
	}
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}
static int set_tty(void)
{
	struct termios now;
	if (tcgetattr(0, &now))
		return -1;
	return tcsetattr(0, TCSANOW, &now);
}
static int set_size(void)
{
	struct winsize size;
	if (ioctl(0, TIOCGWINSZ, &size))
		return -1;
	return ioctl(0, TIOCSWINSZ, &size);
}
static int foreground(void) { int group = getpgid(0); return ioctl(0, TIOCSPGRP, &group); }
static int line_discipline(void) { int n = 0; return ioctl(0, TIOCSETD, &n); }
static int console(void) { return ioctl(0, TIOCCONS, 0); }
static int exclusive(void) { return ioctl(0, TIOCEXCL, 0) ? -1 : ioctl(0, TIOCNXCL, 0); }
static int hang_up(void) { return vhangup(); }

/* Keys, namespaces, the kernel's large parts. */
static int key_add(void) { return call(SYS_add_key, "user", "attack", "x", 1, KEY_SPEC_PROCESS_KEYRING); }
static int key_request(void) { return call(SYS_request_key, "user", "attack", NULL, KEY_SPEC_PROCESS_KEYRING) >= 0 || errno == ENOKEY ? 0 : -1; }
static int key_control(void) { return call(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1); }
static int in_child(int flags)
{
	pid_t child = fork();
	if (child == 0)
		_exit(unshare(flags) ? errno : 0);
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}
static int new_user(void) { return in_child(CLONE_NEWUSER); }
static int new_mounts(void) { return in_child(CLONE_NEWNS); }
static int new_net(void) { return in_child(CLONE_NEWNET); }
static int new_pids(void) { return in_child(CLONE_NEWPID); }
static int clone_user(void)
{
	int child = call(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	return child;
}
static int clone_sibling(void)
{
	int child = call(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	return child;
}
static int clone_3(void)
{
	struct { uint64_t words[11]; } arguments = { { CLONE_NEWUSER, 0, 0, 0, SIGCHLD } };
	int child = call(CLONE3, &arguments, 64);
	if (child == 0)
		_exit(0);
	return child;
}
static int join_namespace(void)
{
	int fd = open("/proc/self/ns/uts", O_RDONLY);
	return setns(fd, 0);
}
static int uring(void) { uint32_t parameters[30] = { 0 }; return call(IO_URING_SETUP, 1, parameters); }
static int bpf(void)
{
	struct { uint32_t type, key, value, entries; char rest[112]; } map = { 2, 4, 4, 1, { 0 } };
	return call(SYS_bpf, 0, &map, sizeof map);
}
static int perf(void)
{
	struct perf_event_attr what = { .type = PERF_TYPE_SOFTWARE, .size = sizeof what, .config = PERF_COUNT_SW_DUMMY };
	return call(SYS_perf_event_open, &what, 0, -1, -1, 0);
}
static int page_faults(void) { return call(SYS_userfaultfd, O_CLOEXEC); }
static int shared_memory(void) { return call(SYS_shmget, 0, 4096, 0600); }
static int shared_memory_info(void) { char info[1024]; return call(SYS_shmctl, 0, 14 /* SHM_INFO */, info); }
static int semaphores(void) { return call(SYS_semget, 0, 1, 0600); }
static int messages(void) { return call(SYS_msgget, 0, 0600); }
static int message_queue(void) { return call(SYS_mq_open, "attack", O_RDWR | O_CREAT, 0600, NULL); }
static int message_queue_remove(void) { return call(SYS_mq_unlink, "attack"); }

/* The machine. */
static int module_load(void) { return call(SYS_init_module, bytes, 64, ""); }
static int module_open(void) { return call(SYS_finit_module, reading(), "", 0); }
static int module_remove(void) { return call(SYS_delete_module, "attack", O_NONBLOCK); }
static int kexec(void) { return call(SYS_kexec_load, 0, 0, NULL, 0); }
static int restart(void) { return call(SYS_reboot, 0xfee1dead, 672274793, 0 /* CAD_OFF */, NULL); }
static int host_name(void)
{
	char name[65];
	return gethostname(name, sizeof name) ? -1 : sethostname(name, strlen(name));
}
static int domain_name(void) { return setdomainname("(none)", 6); }
static int set_time(void) { return call(SYS_settimeofday, NULL, NULL); }
static int set_clock(void)
{
	const struct timespec never = { -1, 0 };
	return call(SYS_clock_settime, 0, &never);
}
static int kernel_log(void) { return call(SYS_syslog, 10, NULL, 0); }
static int kernel_log_read(void) { return call(SYS_syslog, 3, bytes, 64); }
static int persona(void) { return call(SYS_personality, 0x0040000); }
static int groups(void) { return call(SYS_setgroups, 0, NULL); }
static int user(void) { return call(SYS_setresuid, 1, -1, -1); }
static int regain(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 1u << 21, 1u << 21, 0 }, { 0, 0, 0 } };
	return call(SYS_capset, &header, data);
}
static int subreaper(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1); }
static int dumpable(void) { return prctl(PR_SET_DUMPABLE, 1); }
static int orphaned_alive(void) { return prctl(PR_SET_PDEATHSIG, 0); }
static int ptracer(void) { return prctl(PR_SET_PTRACER, -1); }
static int lsm(void) { return call(LSM_SET_SELF_ATTR, 100, bytes, 32, 0); }
static int limit_more(void)
{
	const struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	struct rlimit now;
	if (getrlimit(RLIMIT_CORE, &now) == 0 && now.rlim_max == RLIM_INFINITY)
		return errno = ENOSYS, -1;
	return setrlimit(RLIMIT_CORE, &limit);
}
#ifdef __x86_64__
static int ports(void) { return call(SYS_iopl, 3); }
static int ports_some(void) { return call(SYS_ioperm, 0x80, 1, 1); }
static int local_descriptors(void) { return call(SYS_modify_ldt, 0, bytes, 64); }
static int old_times(void) { return call(SYS_utime, file, NULL); }
static int old_times_micro(void) { return call(SYS_utimes, file, NULL); }
static int old_times_at(void) { return call(SYS_futimesat, AT_FDCWD, file, NULL); }
static int old_creat(void) { return call(SYS_creat, new_name, 0600); }
static int x32(void) { return call(0x40000000 | SYS_getpid) < 0 ? -1 : 0; }
static int x32_socket(void) { return call(0x40000000 | SYS_socket, AF_UNIX, SOCK_STREAM, 0); }
/* What another architecture's numbers come to: a kernel may end the process for it. */
static int ia32(void)
{
	pid_t child = fork();
	if (child == 0) {
		long result;
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
		_exit(result > 0 ? 0 : ENOSYS);
	}
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : ENOSYS;
	return errno ? -1 : 0;
}
#endif

static const struct way {
	const char *name;
	int (*attempt)(void);
} WAYS[] = {
#define WAY(name) { #name, name }
	WAY(open_to_write), WAY(open_to_append), WAY(open_new), WAY(open_nameless), WAY(open_core_pattern), WAY(open_memory),
	WAY(truncate_file), WAY(rename_file), WAY(link_file), WAY(symlink_new), WAY(make_folder), WAY(make_fifo), WAY(make_device),
	WAY(chmod_path), WAY(chmod_open), WAY(chmod_at_2), WAY(chown_path), WAY(chown_link), WAY(chown_open), WAY(chown_at),
	WAY(times_path), WAY(times_open), WAY(times_now), WAY(attribute_path), WAY(attribute_link), WAY(attribute_open), WAY(attribute_at),
	WAY(attribute_gone), WAY(inode_flags), WAY(inode_attributes), WAY(by_handle), WAY(by_handle_to_write), WAY(mount_tmpfs),
	WAY(mount_bind), WAY(fs_open), WAY(tree_open), WAY(tree_open_attr), WAY(mount_move), WAY(mount_attributes),
	WAY(change_root), WAY(pivot), WAY(quota), WAY(quota_open), WAY(accounting), WAY(swap_on), WAY(swap_off), WAY(watch_all),
	WAY(watch_all_contents), WAY(remove_folder), WAY(unlink_file),
	WAY(kill_other), WAY(kill_group), WAY(kill_all), WAY(kill_thread), WAY(kill_tid), WAY(queue_signal), WAY(queue_signal_thread),
	WAY(pidfd), WAY(pidfd_signal), WAY(pidfd_take), WAY(limit_other), WAY(limit_other_read), WAY(trace), WAY(read_memory),
	WAY(write_memory), WAY(open_proc_mem), WAY(open_proc_environ), WAY(write_oom), WAY(advise), WAY(release), WAY(affinity),
	WAY(scheduler), WAY(scheduler_parameters), WAY(scheduler_attributes), WAY(priority), WAY(io_priority), WAY(compare),
	WAY(robust_list), WAY(move_memory), WAY(owner), WAY(owner_extended), WAY(notify), WAY(unlock_shared), WAY(unlock_shared_wait), WAY(unlock_own), WAY(new_session), WAY(new_group),
	WAY(connect_unix), WAY(connect_abstract), WAY(send_unix), WAY(send_pair), WAY(send_message_pair), WAY(connect_pair), WAY(send_sequence), WAY(connect_sequence),
	WAY(make_pair), WAY(tcp), WAY(udp), WAY(tcp_6), WAY(netlink_route), WAY(netlink_events), WAY(netlink_audit), WAY(netlink_generic),
	WAY(netlink_sockets), WAY(netlink_filter), WAY(packets), WAY(raw_ip), WAY(ping), WAY(mptcp), WAY(vsock), WAY(crypto),
	WAY(key_socket), WAY(bluetooth), WAY(xdp), WAY(serve_tcp), WAY(serve_unbound),
	WAY(push_input), WAY(push_input_tty), WAY(push_selection), WAY(open_tty), WAY(take_tty), WAY(take_tty_new), WAY(set_tty),
	WAY(set_size), WAY(foreground), WAY(line_discipline), WAY(console), WAY(exclusive),
	WAY(key_add), WAY(key_request), WAY(key_control), WAY(new_user), WAY(new_mounts), WAY(new_net), WAY(new_pids), WAY(clone_user),
	WAY(clone_sibling), WAY(clone_3), WAY(join_namespace), WAY(uring), WAY(bpf), WAY(perf), WAY(page_faults), WAY(shared_memory),
	WAY(shared_memory_info), WAY(semaphores), WAY(messages), WAY(message_queue), WAY(message_queue_remove),
	WAY(module_load), WAY(module_open), WAY(module_remove), WAY(kexec), WAY(restart), WAY(host_name), WAY(domain_name), WAY(set_time),
	WAY(set_clock), WAY(kernel_log), WAY(kernel_log_read), WAY(groups), WAY(user), WAY(regain), WAY(subreaper), WAY(dumpable),
	WAY(orphaned_alive), WAY(ptracer), WAY(lsm), WAY(limit_more), WAY(persona),
#ifdef __x86_64__
	WAY(ports), WAY(ports_some), WAY(local_descriptors), WAY(old_times), WAY(old_times_micro), WAY(old_times_at), WAY(old_creat), WAY(x32),
	WAY(x32_socket), WAY(ia32),
#endif
	/* Last: it would take the terminal away. */
	WAY(unmount), WAY(hang_up),
};

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: probe FOLDER PID\n");
		return 2;
	}
	victim = atoi(argv[2]);
	snprintf(file, sizeof file, "%s/file", argv[1]);
	snprintf(folder, sizeof folder, "%s/folder", argv[1]);
	snprintf(new_name, sizeof new_name, "%s/new", argv[1]);
	snprintf(unix_path, sizeof unix_path, "%s/socket", argv[1]);
	snprintf(datagrams, sizeof datagrams, "%s/datagrams", argv[1]);
	snprintf(sequences, sizeof sequences, "%s/sequences", argv[1]);
	/* Where that is allowed the ways have no effect on the machine. */
	if (unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC) == 0 && call(SYS_mount, "", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return 3;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGTTOU, SIG_IGN);
	for (size_t n = 0; n < sizeof WAYS / sizeof *WAYS; n++) {
		int result = WAYS[n].attempt();
		printf("%s\t%s\n", WAYS[n].name, result >= 0 ? "got" : strerrorname_np(errno));
	}
	return 0;
}
