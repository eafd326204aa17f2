"""The SROS 2 enclave of each node, as `config/sros2_policy.xml` names it."""

ENCLAVES = "/residual_smolvla_ros"


def enclave(executable: str) -> str:
    """Return the enclave that a node of this executable is started in: each has one of its own.

    Without `ROS_SECURITY_ENABLE=true` it is a name that nothing reads.
    """
    return f"{ENCLAVES}/{executable}"
