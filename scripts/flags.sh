# Sourced: read_flags hands each flag and its value to `take`, or says what is wrong with it.
# The script that sources this sets $valued and $switches, the flags with a value and without, and
# defines `take` and `usage`.
# shellcheck shell=bash

refuse() {
    echo "$(basename "$0"): $1" >&2
    usage
}

read_flags() {
    local flag value
    while [ $# -gt 0 ]; do
        [[ $1 =~ ^[[:space:]]*$ ]] && { shift; continue; } # a blank, from a pasted line continuation
        flag=${1%%=*}
        case $1 in -h | --help) usage ;; esac
        [[ $1 != *[[:space:]]* && " ${switches?} " == *" $1 "* ]] && { take "$1"; shift; continue; }
        [[ $flag != *[[:space:]]* && " ${valued?} " == *" $flag "* ]] || refuse "unknown argument: $1"
        case $1 in
            *=*) value=${1#*=}; shift ;;
            *) [ $# -ge 2 ] || refuse "$flag needs a value"
               value=$2; shift 2 ;;
        esac
        case $value in '' | --*) refuse "$flag needs a value" ;; esac
        take "$flag" "$value"
    done
}
