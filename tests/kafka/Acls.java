import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/** Allows a user what a worker needs: Acls BOOTSTRAP USER TYPE:PATTERN:NAME:OPERATION,... ... */
public class Acls {
    public static void main(String[] arguments) throws Exception {
        List<AclBinding> all = new ArrayList<>();
        for (int at = 2; at < arguments.length; at++) {
            String[] parts = arguments[at].split(":");
            ResourcePattern resource = new ResourcePattern(
                ResourceType.valueOf(parts[0]), parts[2], PatternType.valueOf(parts[1]));
            for (String operation : parts[3].split(",")) {
                all.add(new AclBinding(resource, new AccessControlEntry(
                    "User:" + arguments[1], "*", AclOperation.valueOf(operation),
                    AclPermissionType.ALLOW)));
            }
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            admin.createAcls(all).all().get();
        }
    }
}
