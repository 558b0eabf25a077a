"""System call numbers that the filter must know: the table behind `seccomp`.

Owns data only. What is denied is what Docker's default profile leaves out for a process without extra capabilities
(docs/security.md lists the reasons); legacy calls that modern kernels lack are not listed. Numbers are from the
kernel's syscall tables; `-` marks a call that the architecture does not have.
"""

ARCHITECTURES = ("x86_64", "i386", "aarch64", "arm")  # the columns
LAST_KNOWN = 466  # removexattrat: a newer call is answered with ENOSYS, so that programs fall back


def _table(text: str) -> dict[str, tuple[int | None, ...]]:
    rows = (line.split() for line in text.strip().splitlines())
    return {name: tuple(None if n == "-" else int(n) for n in numbers) for name, *numbers in rows}


DENIED = _table(
    """
    _sysctl 156 149 - 149
    acct 163 51 89 51
    add_key 248 286 217 309
    bdflush - 134 - 134
    bpf 321 357 280 386
    clock_settime 227 264 112 262
    clock_settime64 - 404 404 404
    create_module 174 127 - -
    delete_module 176 129 106 129
    fanotify_init 300 338 262 367
    finit_module 313 350 273 379
    fsconfig 431 431 431 431
    fsmount 432 432 432 432
    fsopen 430 430 430 430
    fspick 433 433 433 433
    get_kernel_syms 177 130 - -
    get_mempolicy 239 275 236 320
    init_module 175 128 105 128
    io_uring_enter 426 426 426 426
    io_uring_register 427 427 427 427
    io_uring_setup 425 425 425 425
    ioperm 173 101 - -
    iopl 172 110 - -
    kcmp 312 349 272 378
    kexec_file_load 320 - 294 401
    kexec_load 246 283 104 347
    keyctl 250 288 219 311
    lookup_dcookie 212 253 18 249
    lsm_get_self_attr 459 459 459 459
    lsm_list_modules 461 461 461 461
    lsm_set_self_attr 460 460 460 460
    mbind 237 274 235 319
    migrate_pages 256 294 238 400
    mount 165 21 40 21
    mount_setattr 442 442 442 442
    move_mount 429 429 429 429
    move_pages 279 317 239 344
    nfsservctl 180 169 42 169
    open_by_handle_at 304 342 265 371
    open_tree 428 428 428 428
    perf_event_open 298 336 241 364
    pidfd_getfd 438 438 438 438
    pivot_root 155 217 41 218
    process_madvise 440 440 440 440
    query_module 178 167 - -
    quotactl 179 131 60 131
    quotactl_fd 443 443 443 443
    reboot 169 88 142 88
    request_key 249 287 218 310
    set_mempolicy 238 276 237 321
    set_mempolicy_home_node 450 450 450 450
    setdomainname 171 121 162 121
    sethostname 170 74 161 74
    setns 308 346 268 375
    settimeofday 164 79 170 79
    stime - 25 - -
    swapoff 168 115 225 115
    swapon 167 87 224 87
    sysfs 139 135 - 135
    syslog 103 103 116 103
    umount - 22 - -
    umount2 166 52 39 52
    unshare 272 310 97 337
    uselib 134 86 - 86
    userfaultfd 323 374 282 388
    ustat 136 62 - 62
    vhangup 153 111 58 111
    vm86 - 166 - -
    vm86old - 113 - -
    vserver 236 273 - 313
    """
)

CHECKED = _table(
    """
    clone 56 120 220 120
    clone3 435 435 435 435
    socket 41 359 198 281
    personality 135 136 92 136
    """
)

FAKED = _table(
    """
    chown 92 182 - 182
    chown32 - 212 - 212
    fchown 93 95 55 95
    fchown32 - 207 - 207
    fchownat 260 298 54 325
    lchown 94 16 - 16
    lchown32 - 198 - 198
    setfsgid 123 139 152 139
    setfsgid32 - 216 - 216
    setfsuid 122 138 151 138
    setfsuid32 - 215 - 215
    setgid 106 46 144 46
    setgid32 - 214 - 214
    setgroups 116 81 159 81
    setgroups32 - 206 - 206
    setregid 114 71 143 71
    setregid32 - 204 - 204
    setresgid 119 170 149 170
    setresgid32 - 210 - 210
    setresuid 117 164 147 164
    setresuid32 - 208 - 208
    setreuid 113 70 145 70
    setreuid32 - 203 - 203
    setuid 105 23 146 23
    setuid32 - 213 - 213
    mknod 133 14 - 14
    mknodat 259 297 33 324
    """
)

# What a capability beyond the default set opens, as in Docker's default profile. clone and clone3 are then unchecked.
OPENED = {
    "bpf": "bpf",
    "dac_read_search": "open_by_handle_at",
    "perfmon": "perf_event_open",
    "sys_admin": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr "
    "move_mount open_tree perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog "
    "umount umount2 unshare",
    "sys_boot": "reboot",
    "sys_module": "delete_module finit_module init_module",
    "sys_nice": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "sys_pacct": "acct",
    "sys_ptrace": "kcmp pidfd_getfd process_madvise",
    "sys_rawio": "ioperm iopl",
    "sys_time": "clock_settime clock_settime64 settimeofday stime",
    "sys_tty_config": "vhangup",
    "syslog": "syslog",
}
