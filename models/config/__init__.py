"""The options of every network and teacher, free of torch: a class for each family, and the unions of them."""

from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from models.config.convolutional import ConvolutionalNetwork, ResUNetNetwork, UNetNetwork
from models.config.network import Channels, Frozen, NetworkOptions
from models.config.packaged import PackagedNetwork, SmpNetwork
from models.config.teachers import (
    CascadePvtTeacher,
    CascadeTransUNetTeacher,
    EnsembleTeacher,
    EspNetTeacher,
    ExportedTeacher,
    HiFormerTeacher,
    LcovNetTeacher,
    MapsTeacher,
    MemberTeacher,
    MISSFormerTeacher,
    MobileUNetTeacher,
    NetworkTeacher,
    NnunetTeacher,
    ResidualUNet3dTeacher,
    ResUNetTeacher,
    SegResNetTeacher,
    SmpTeacher,
    SwinUnetTeacher,
    Teacher,
    TeacherConfig,
    TransUNetTeacher,
    UCTransNetTeacher,
    UNetTeacher,
    WeightsTeacher,
)
from models.config.transformers import (
    CascadePvtNetwork,
    CascadeTransUNetNetwork,
    HiFormerNetwork,
    MISSFormerNetwork,
    SwinUnetNetwork,
    TransformerNetwork,
    TransUNetNetwork,
    UCTransNetNetwork,
)
from models.config.volumes import (
    EspNetNetwork,
    LcovNetNetwork,
    MobileUNetNetwork,
    ResidualUNet3dNetwork,
    SegResNetNetwork,
    VolumetricNetwork,
)

__all__ = [
    "CascadePvtNetwork",
    "CascadePvtTeacher",
    "CascadeTransUNetNetwork",
    "CascadeTransUNetTeacher",
    "Channels",
    "EnsembleTeacher",
    "EspNetNetwork",
    "EspNetTeacher",
    "ExportedTeacher",
    "Frozen",
    "HiFormerNetwork",
    "HiFormerTeacher",
    "LcovNetNetwork",
    "LcovNetTeacher",
    "MISSFormerNetwork",
    "MISSFormerTeacher",
    "MapsTeacher",
    "MemberTeacher",
    "MobileUNetNetwork",
    "MobileUNetTeacher",
    "NetworkConfig",
    "NetworkOptions",
    "NetworkTeacher",
    "NnunetTeacher",
    "ResUNetNetwork",
    "ResUNetTeacher",
    "ResidualUNet3dNetwork",
    "ResidualUNet3dTeacher",
    "SegResNetNetwork",
    "SegResNetTeacher",
    "SmpNetwork",
    "SmpTeacher",
    "SwinUnetNetwork",
    "SwinUnetTeacher",
    "Teacher",
    "TeacherConfig",
    "TransUNetNetwork",
    "TransUNetTeacher",
    "UCTransNetNetwork",
    "UCTransNetTeacher",
    "UNetNetwork",
    "UNetTeacher",
    "WeightsTeacher",
    "names_for",
    "network_config",
    "teacher_config",
]

NetworkConfig = Annotated[
    ConvolutionalNetwork | TransformerNetwork | PackagedNetwork | VolumetricNetwork, Field(discriminator="name")
]
"""What a student may be."""

_STUDENTS: TypeAdapter[NetworkConfig] = TypeAdapter(NetworkConfig)
_TEACHERS: TypeAdapter[NetworkTeacher] = TypeAdapter(Annotated[NetworkTeacher, Field(discriminator="name")])


def network_config(name: str, **options: Any) -> NetworkConfig:
    """A network's options, checked. Raises pydantic's ValidationError, a ValueError."""
    return _STUDENTS.validate_python({"name": name, **options})


def teacher_config(name: str, **options: Any) -> NetworkTeacher:
    """The same of a network as teacher."""
    return _TEACHERS.validate_python({"name": name, **options})


def names_for(dims: int) -> tuple[str, ...]:
    """The networks that have a form for so many axes of space, in the order of the families."""
    families = get_args(get_args(NetworkConfig)[0])
    return tuple(name for family in families if dims in family.DIMS for name in family.names())
